"""What a walk notes down of each layer, and what is kept of a long spectrum."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

import eckart
from eckart.compression.drift import BlockDrift, DriftError
from eckart.compression.records import SPECTRUM_HEAD, SPECTRUM_POINTS, LayerRecord, Records, thin_spectrum
from eckart.methods.preparation.record import PreparationRecord, TailRecord
from eckart.methods.refinement.record import RefinementRecord


def test_spectra_tell_what_is_lost(llama: PreTrainedModel, tokens: Tensor) -> None:
    report = eckart.compress(llama, "svd-llm", 0.6, tokens)
    assert report.spectra.keys() == report.ranks.keys()
    for layer in report.layers:
        components, values = report.spectra[layer.path]
        assert components.tolist() == list(range(1, min(layer.out_features, layer.in_features) + 1))
        # What the cut leaves of ||T||^2 is the error that was recorded: so the cut is where the rank says.
        left = values[layer.rank :].square().sum() / values.square().sum()
        assert layer.error == pytest.approx(float(left.sqrt()), rel=0.02)


@pytest.mark.parametrize("rank", [1, 700, 1000])
def test_a_long_spectrum_keeps_its_head_its_ends_and_its_cut(rank: int) -> None:
    values = torch.linspace(5, 1, 1000, dtype=torch.float64)
    components, kept = thin_spectrum(values, rank)
    assert len(components) <= SPECTRUM_POINTS
    assert {1, 2, 100, rank, min(rank + 1, 1000), 1000} <= set(components.int().tolist())
    assert torch.equal(kept, values[components.long() - 1].float())


@pytest.mark.parametrize("count", [1, 2, 511, 512])
def test_a_short_spectrum_is_kept_whole(count: int) -> None:
    values = torch.linspace(9, 1, count, dtype=torch.float64)
    components, kept = thin_spectrum(values, 1)
    assert components.tolist() == list(range(1, count + 1))
    assert torch.equal(kept, values.float())


@given(st.integers(513, 5000), st.data())
def test_components_of_a_long_spectrum_rise_and_are_not_far_apart(count: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, count))
    components, kept = thin_spectrum(torch.arange(count, 0, -1, dtype=torch.float64), rank)
    places = components.long() - 1
    steps = places.diff()
    assert (steps > 0).all()
    assert steps.max() <= (count - SPECTRUM_HEAD) / (SPECTRUM_POINTS - SPECTRUM_HEAD - 3) + 1
    assert torch.equal(kept, count - places.float())
    assert {min(max(rank - 1, 0), count - 1), min(rank, count - 1), 0, count - 1} <= set(places.tolist())


def test_records_of_a_block_are_put_behind_those_that_there_are() -> None:
    def layer(path: str) -> LayerRecord:
        return LayerRecord(path=path, out_features=2, in_features=3, rank=1, bytes=10, error=0.5)

    tails = {"1.a": TailRecord(before=0.5, after=0.25)}
    preparation = PreparationRecord(block="1", before=0.5, after=0.25, kept_epoch=1, epochs=[], tails=tails)
    refinement = RefinementRecord(block="1", before=1.0, after=0.5, kept_epoch=0, epochs=[])
    drift = BlockDrift(path="1", output=DriftError(relative=0.1, cosine=0.2), layers={})
    first = Records().and_block([layer("0.a"), layer("0.b")], None, None, None, {"0.a": torch.ones(2, 1)})
    both = first.and_block([layer("1.a")], preparation, refinement, drift, {"1.a": torch.zeros(2, 1)})
    assert [record.path for record in both.layers] == ["0.a", "0.b", "1.a"]
    assert (both.preparations, both.refinements, both.blocks) == ([preparation], [refinement], [drift])
    assert "preparations" not in first.model_dump()
    assert list(both.spectra) == ["0.a", "1.a"]
    # What was there is not changed.
    assert (len(first.layers), first.refinements, first.blocks, list(first.spectra)) == (2, [], [], ["0.a"])
    again = Records.model_validate_json(both.model_dump_json())
    assert again.model_copy(update={"spectra": both.spectra}) == both
