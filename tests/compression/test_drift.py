"""How two models drift apart, against whole models that are run as they are."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import make_model
from torch import Tensor
from transformers import PreTrainedModel

import eckart
from eckart.blocks.discovery import find_blocks
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.overridden_weights import OverriddenWeights
from eckart.compression.drift import FOLLOWED_LENGTH, FOLLOWED_SAMPLES, Outputs, compare, drift_error, original_weights


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


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 6))
def test_errors_are_means_of_ratios_over_tokens(seed: int, tokens: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    y, other = (torch.randn(2, tokens, width, generator=generator) for _ in range(2))
    error = drift_error(y, other)
    assert error is not None
    rows = [(a.double(), b.double()) for a, b in zip(y.reshape(-1, width), other.reshape(-1, width), strict=True)]
    relative = sum(float((b - a).norm() / a.norm()) for a, b in rows) / len(rows)
    cosine = sum(1 - float(a @ b / a.norm() / b.norm()) for a, b in rows) / len(rows)
    assert error.relative == pytest.approx(relative, rel=1e-6)
    assert error.cosine == pytest.approx(cosine, rel=1e-6, abs=1e-9)
    # A token that is a thousand times the others counts as one of them.
    scale = torch.ones(2, tokens, 1)
    scale[0, 0] = 1000
    larger = drift_error(y * scale, other * scale)
    assert larger is not None
    assert larger.relative == pytest.approx(error.relative, rel=1e-5)


def test_equal_outputs_have_not_drifted() -> None:
    y = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    error = drift_error(y, y)
    assert error is not None
    assert error.relative == 0
    assert 0 <= error.cosine < 1e-12


def test_a_block_that_is_lent_with_other_weights_can_have_its_own(llama: PreTrainedModel) -> None:
    path = "model.layers.0.mlp.up_proj"
    own = llama.get_parameter(f"{path}.weight").detach().clone()
    weights = OverriddenWeights(ResidentWeights(), llama, {path: torch.zeros(48, 32)})
    with weights.onload(llama.get_submodule("model.layers.0"), torch.device("cpu")) as onloaded:
        weight = onloaded.module.get_submodule("mlp.up_proj").get_parameter("weight")
        with torch.no_grad():
            with original_weights(onloaded):
                assert torch.equal(weight, own)
            assert not weight.any()
            with pytest.raises(KeyError), original_weights(onloaded):
                raise KeyError
        assert not weight.any()


def test_layers_that_were_handed_other_tokens_are_not_compared(llama: PreTrainedModel) -> None:
    block = find_blocks(llama)[0]
    one, two = block.linears[:2]
    hidden, y = [torch.ones(1, 2, 4), torch.ones(1, 1, 4)], torch.ones(2, 4)
    original = Outputs(hidden, {one: y, two: y})
    found = compare(block, original, Outputs([2 * hidden[0], hidden[1]], {one: 3 * y}))
    assert found.path == "model.layers.0"
    assert found.output is not None
    assert found.output.relative == pytest.approx(2 / 3)
    assert found.layers[two.path] is None
    error = found.layers[one.path]
    assert error is not None
    assert error.relative == pytest.approx(2)


def test_outputs_whose_width_depends_on_the_sample_are_compared(llama: PreTrainedModel) -> None:
    block = find_blocks(llama)[0]
    scores = [torch.ones(1, 3, 3), torch.ones(1, 4, 4)]
    found = compare(block, Outputs(scores, {}), Outputs([1.5 * batch for batch in scores], {}))
    assert found.output is not None
    assert found.output.relative == pytest.approx(0.5)
