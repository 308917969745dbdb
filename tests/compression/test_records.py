"""What a run records, against whole models that are run as they are."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from tests.conftest import make_model
from torch import Tensor
from transformers import PreTrainedModel

import eckart
from eckart.checkpoint.records import SPECTRA_NAME, TIMINGS_NAME, read_records, read_report
from eckart.compression.drift import FOLLOWED_LENGTH, FOLLOWED_SAMPLES, drift_error
from eckart.compression.records import SPECTRUM_POINTS, thin_spectrum
from eckart.compression.result import REPORT_NAME
from eckart.errors import CheckpointError


def outputs(model: PreTrainedModel, paths: list[str], tokens: Tensor) -> dict[str, Tensor]:
    """Return what modules give in a plain forward pass of the whole model."""
    seen: dict[str, Tensor] = {}

    def record(path: str, output: Tensor | tuple[Tensor, ...]) -> None:
        seen[path] = output[0] if isinstance(output, tuple) else output

    handles = [
        model.get_submodule(path).register_forward_hook(lambda _, args, output, path=path: record(path, output))
        for path in paths
    ]
    with torch.no_grad():
        model(tokens)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("recipe", ["svd-llm", "saes-svd", "aa-svd", "zs-svd-staged"])
@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_errors_by_depth_are_those_of_the_two_models(kind: str, recipe: str, tokens: Tensor) -> None:
    dense = make_model(kind)
    model = copy.deepcopy(dense)
    overrides = ["refinement.epochs=1", "refinement.batch=4"] if recipe == "aa-svd" else []
    report = eckart.compress(model, recipe, 0.6, tokens, overrides=overrides)
    few = tokens[:FOLLOWED_SAMPLES, :FOLLOWED_LENGTH]
    paths = [path for block in report.blocks for path in (block.path, *block.layers)]
    assert sorted(set(paths) - {block.path for block in report.blocks}) == sorted(layer.path for layer in report.layers)
    theirs, ours = outputs(dense, paths, few), outputs(model, paths, few)
    for block in report.blocks:
        for path, error in [(block.path, block.output), *block.layers.items()]:
            assert error is not None
            y, other = theirs[path].flatten(0, -2).double(), ours[path].flatten(0, -2).double()
            relative = ((other - y).norm(dim=1) / y.norm(dim=1)).mean()
            cosine = 1 - torch.cosine_similarity(y, other, dim=1).mean()
            assert error.relative == pytest.approx(float(relative), rel=1e-3, abs=1e-5), path
            assert error.cosine == pytest.approx(float(cosine), rel=1e-2, abs=1e-5), path


def test_spectra_tell_what_is_lost(llama: PreTrainedModel, tokens: Tensor) -> None:
    report = eckart.compress(llama, "svd-llm", 0.6, tokens)
    assert report.spectra.keys() == report.ranks.keys()
    for layer in report.layers:
        components, values = report.spectra[layer.path]
        assert components.tolist() == list(range(1, min(layer.out_features, layer.in_features) + 1))
        # What the cut leaves of ||T||^2 is the error that was recorded: so the cut is where the rank says.
        left = values[layer.rank :].square().sum() / values.square().sum()
        assert layer.error == pytest.approx(float(left.sqrt()), rel=0.02)


def test_recipes_that_look_at_no_text_have_no_streams(llama: PreTrainedModel, tokens: Tensor) -> None:
    report = eckart.compress(llama, "svd", 0.6)
    assert report.blocks == []
    assert report.spectra
    assert report.costs.timings.records < 0.1 * report.costs.timings.total + 0.05
    assert report.costs.memory is not None
    assert report.costs.memory.host > 0


def test_layers_that_no_number_tells_of_have_none() -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    error = drift_error(vectors, torch.tensor([[0.0, 0.0], [9.0, 9.0]]))
    assert error is not None
    assert (error.relative, error.cosine) == (1.0, 1.0)
    assert drift_error(vectors, vectors[:1]) is None
    assert drift_error(vectors, vectors * torch.inf) is None
    assert drift_error(torch.zeros(2, 2), vectors) is None


@pytest.mark.parametrize("rank", [1, 700, 1000])
def test_a_long_spectrum_keeps_its_head_its_ends_and_its_cut(rank: int) -> None:
    values = torch.linspace(5, 1, 1000, dtype=torch.float64)
    components, kept = thin_spectrum(values, rank)
    assert len(components) <= SPECTRUM_POINTS
    assert {1, 2, 100, rank, min(rank + 1, 1000), 1000} <= set(components.int().tolist())
    assert torch.equal(kept, values[components.long() - 1].float())


class TestFolder:
    @pytest.fixture
    def folder(self, llama: PreTrainedModel, tokens: Tensor, tmp_path: Path) -> Path:
        report = eckart.compress(llama, "svd-llm", 0.6, tokens)
        eckart.save(llama, report, tmp_path / "out")
        return tmp_path / "out"

    def test_what_may_be_absent_may_be(self, folder: Path) -> None:
        for name in (SPECTRA_NAME, TIMINGS_NAME):
            (folder / name).unlink()
        report = read_records(folder)
        assert (report.spectra, report.costs.memory, report.costs.timings.total) == ({}, None, 0)

    def test_another_version_is_named(self, folder: Path) -> None:
        path = folder / REPORT_NAME
        path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
        with pytest.raises(CheckpointError, match=r"report\.json is of version 2, and this Eckart reads version 1"):
            read_report(folder)

    def test_what_is_damaged_is_named(self, folder: Path) -> None:
        (folder / SPECTRA_NAME).write_bytes(b"no")
        with pytest.raises(CheckpointError, match=r"spectra\.safetensors cannot be read"):
            read_records(folder)
        (folder / REPORT_NAME).write_text("{")
        with pytest.raises(CheckpointError, match=r"report\.json cannot be read"):
            read_records(folder)
        (folder / REPORT_NAME).write_text("{}")
        with pytest.raises(CheckpointError, match=r"cannot be read \(recipe: Field required\)"):
            read_records(folder)

    def test_a_folder_of_before_is_told_apart(self, tmp_path: Path) -> None:
        (tmp_path / "eckart_report.json").write_text("{}")
        with pytest.raises(CheckpointError, match="of an earlier version: compress again"):
            read_report(tmp_path)
