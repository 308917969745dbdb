"""Sums over layers, by hand, and those of a real model against its tensors."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from tests.conftest import make_model
from torch import Tensor

import eckart
from eckart.compression.records import LayerRecord, SketchRecord
from eckart.compression.result import CompressionResult


def layer(path: str, shape: tuple[int, int], rank: int | None, size: int) -> LayerRecord:
    return LayerRecord(path=path, out_features=shape[0], in_features=shape[1], rank=rank, bytes=size, error=0.1)


def result(*layers: LayerRecord, parameters: int = 1000, keep: float = 0.5) -> CompressionResult:
    return CompressionResult(
        recipe=eckart.load_recipe("svd"),
        requested_keep=keep,
        calibration=None,
        parameters=parameters,
        layers=list(layers),
    )


def test_bytes_are_those_of_the_linears_and_of_all_else() -> None:
    """Of 1000 numbers 500 are in linears, which take 1000 bytes, and 380 afterwards."""
    found = result(layer("a", (10, 20), 3, 180), layer("b", (30, 10), None, 200))
    assert found.keep == 0.38
    assert (found.whole_bytes, found.whole_bytes_after) == (2000, 1380)
    assert found.keep_whole_model == 0.69
    assert found.ranks == {"a": 3}
    assert [record.dense_bytes for record in found.layers] == [400, 600]


def test_the_largest_excess_is_of_those_that_are_known() -> None:
    def solved(excess: float | None) -> LayerRecord:
        return layer("a", (10, 20), 3, 180).model_copy(update={"sketch": SketchRecord(loss=0.1, excess=excess)})

    assert result(layer("a", (10, 20), 3, 180), solved(None)).largest_excess is None
    assert result(solved(0.1), solved(None), solved(0.3), solved(0.2)).largest_excess == 0.3


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_bytes_of_a_model_are_those_of_its_tensors(kind: str, tokens: Tensor) -> None:
    model = make_model(kind).bfloat16()
    before = sum(parameter.nbytes for parameter in model.parameters())
    report = eckart.compress(model, "svd-llm", 0.6, tokens)
    assert report.whole_bytes == before
    assert report.whole_bytes_after == sum(parameter.nbytes for parameter in model.parameters())
    assert report.parameters == before // 2
    assert report.requested_keep == 0.6
    assert 0.5 < report.keep <= 0.6 < report.keep_whole_model < 1


def test_it_is_read_as_it_was_written_but_for_what_the_run_took() -> None:
    found = result(layer("a", (10, 20), 3, 180))
    found.costs.timings.total = 7.0
    found.spectra["a"] = torch.ones(2, 3)
    text = found.model_dump_json()
    assert "spectra" not in text
    assert "timings" not in text
    again = CompressionResult.model_validate_json(text)
    assert again.layers == found.layers
    assert again.recipe == found.recipe
    assert (again.costs.timings.total, again.spectra) == (0, {})


@pytest.mark.parametrize("keep", [0.0, -1.0, 1.5])
def test_a_share_that_cannot_be_asked_for_is_refused(keep: float) -> None:
    with pytest.raises(ValidationError):
        result(keep=keep)
