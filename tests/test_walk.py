"""The walk, against an implementation that keeps everything in memory and follows the definitions literally."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.conftest import CONFIGS, make_model
from torch import Tensor
from transformers import PreTrainedModel

import eckart
from eckart.blocks import find_blocks
from eckart.errors import CalibrationError, NonFiniteError
from eckart.layers import LowRankLinear, is_replaced, weight_matrix
from eckart.plan import make_plan

KEEP = 0.6


def inputs_of(model: PreTrainedModel, path: str, tokens: Tensor) -> Tensor:
    """Return what a linear is handed in a plain forward pass of the whole model, (in features, tokens) float64."""
    seen: list[Tensor] = []
    module = model.get_submodule(path)
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        model(tokens)
    handle.remove()
    return torch.cat(seen).double().T


def literal(model: PreTrainedModel, recipe: str, objective: str, tokens: Tensor) -> PreTrainedModel:
    """Compress group by group with full forward passes of two whole models and an SVD of the raw inputs."""
    original, compressed = copy.deepcopy(model), copy.deepcopy(model)
    ranks = make_plan(model, eckart.RECIPES[recipe], KEEP).ranks
    for block in find_blocks(model):
        for group in block.groups:
            leader = group.targets[0].path
            x = inputs_of(original, leader, tokens)
            z = x if objective == "input-aware" else inputs_of(compressed, leader, tokens)
            for target in group.targets:
                linear = compressed.get_submodule(target.path)
                weight = weight_matrix(linear).double()
                goal = weight @ (z if objective == "shift-aware" else x)
                rank = ranks[target.path]
                scale = z.norm(dim=1, keepdim=True).clamp_min(1e-12)
                directions, sizes, basis = torch.linalg.svd(z / scale, full_matrices=False)
                # Attention over few values gives inputs that do not span all directions.
                kept = sizes > 3e-4 * sizes[0]
                u, s, vt = torch.linalg.svd(goal @ basis[kept].T, full_matrices=False)
                first = vt[:rank] @ (directions[:, kept] / sizes[kept]).T / scale.T
                compressed.set_submodule(target.path, LowRankLinear.from_factors(linear, u[:, :rank] * s[:rank], first))
    return compressed


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(
    ("recipe", "objective"),
    [("svd-llm", "input-aware"), ("dobi-shift", "shift-aware"), ("aa-svd-layer", "anchored")],
)
def test_equals_the_literal_implementation(kind: str, recipe: str, objective: str, tokens: Tensor) -> None:
    model = make_model(kind)
    expected = literal(model, recipe, objective, tokens)
    eckart.compress(model, recipe, KEEP, tokens)
    for block in find_blocks(make_model(kind)):
        for target in (target for group in block.groups for target in group.targets):
            ours, theirs = model.get_submodule(target.path), expected.get_submodule(target.path)
            assert isinstance(ours, LowRankLinear)
            assert isinstance(theirs, LowRankLinear)
            # Shifted inputs can be nearly singular (attention mixes few values), and then only the outputs agree.
            z = inputs_of(expected, target.path, tokens)
            difference = (ours.product() - theirs.product()) @ z
            assert difference.norm() < 1e-2 * (theirs.product() @ z).norm(), target.path
    with torch.no_grad():
        ours, theirs = model(tokens).logits, expected(tokens).logits
    assert (ours - theirs).norm() < 1e-2 * theirs.norm()


def has_comparable_errors(recipe: eckart.Recipe) -> bool:
    """Refinement comes after the errors; staging factors other weights than the original ones."""
    return not recipe.refinement.needs_data and getattr(recipe.allocation, "stages", 1) == 1


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
@pytest.mark.parametrize("recipe", [name for name, r in eckart.RECIPES.items() if has_comparable_errors(r)])
def test_reported_errors_are_those_of_the_outputs(recipe: str, llama: PreTrainedModel, tokens: Tensor) -> None:
    original = copy.deepcopy(llama)
    report = eckart.compress(llama, recipe, KEEP, tokens)
    streams = eckart.RECIPES[recipe].objective.streams.name
    for layer in report.layers:
        weight = weight_matrix(original.get_submodule(layer.path)).detach().double()
        layer_now = llama.get_submodule(layer.path)
        product = layer_now.product() if is_replaced(layer_now) else weight
        if streams == "NONE":
            expected = (weight - product).norm() / weight.norm()
        else:
            x = inputs_of(original, layer.path, tokens)
            z = x if streams == "ORIGINAL" else inputs_of(llama, layer.path, tokens)
            target = weight @ (z if streams == "COMPRESSED" else x)
            expected = (target - product @ z).norm() / target.norm()
        assert layer.error == pytest.approx(float(expected), rel=1e-3, abs=1e-4)


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
@pytest.mark.parametrize("recipe", eckart.RECIPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_tensor_keeps_its_dtype(recipe: str, dtype: torch.dtype, llama: PreTrainedModel, tokens: Tensor) -> None:
    llama.to(dtype)
    llama.model.rotary_emb.inv_freq = llama.model.rotary_emb.inv_freq.float()
    frequencies = llama.model.rotary_emb.inv_freq.clone()
    norm = llama.model.norm.weight.clone()
    eckart.compress(llama, recipe, KEEP, tokens)
    assert {parameter.dtype for parameter in llama.parameters()} == {dtype}
    assert torch.equal(llama.model.rotary_emb.inv_freq, frequencies)
    assert torch.equal(llama.model.norm.weight, norm)


def test_bytes_are_at_most_what_was_asked_for(llama: PreTrainedModel, tokens: Tensor) -> None:
    report = eckart.compress(llama, "svd-llm", KEEP, tokens)
    assert report.keep <= KEEP
    factors = [p for m in llama.modules() if isinstance(m, LowRankLinear) for p in m.parameters() if p.ndim == 2]
    assert sum(p.numel() for p in factors) * 2 == sum(layer.bytes for layer in report.layers)
    assert report.parameters_after == sum(parameter.numel() for parameter in llama.parameters())


def test_keeping_everything_changes_nothing(llama: PreTrainedModel, tokens: Tensor) -> None:
    with torch.no_grad():
        before = llama(tokens).logits
    report = eckart.compress(llama, "aa-svd-layer", 1.0, tokens)
    with torch.no_grad():
        assert torch.equal(llama(tokens).logits, before)
    assert report.ranks == {}
    assert report.keep == 1.0
    assert all(layer.error < 1e-3 for layer in report.layers)


def test_more_bytes_lose_less(tokens: Tensor) -> None:
    errors = []
    for keep in (0.3, 0.6, 0.9):
        report = eckart.compress(make_model("llama"), "aa-svd-layer", keep, tokens)
        errors.append(sum(layer.error for layer in report.layers))
    assert errors == sorted(errors, reverse=True)


def test_the_same_seed_gives_the_same_bits(tokens: Tensor) -> None:
    models = [make_model("llama") for _ in range(2)]
    for model in models:
        eckart.compress(model, "saes-svd", KEEP, tokens)
    first, second = (model.state_dict() for model in models)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("recipe", ["svd-llm", "aa-svd-layer"])
def test_a_ragged_last_batch_counts_like_any_other(
    recipe: str, monkeypatch: pytest.MonkeyPatch, tokens: Tensor
) -> None:
    models = [make_model("opt") for _ in range(2)]
    eckart.compress(models[0], recipe, KEEP, tokens)
    monkeypatch.setattr("eckart.calibration.BATCH_TOKENS", 24 * 5)  # 12 samples as 5 + 5 + 2
    eckart.compress(models[1], recipe, KEEP, tokens)
    with torch.no_grad():
        ours, theirs = (model(tokens).logits for model in models)
    assert (ours - theirs).norm() < 1e-2 * theirs.norm()


@pytest.mark.parametrize("recipe", ["svd-llm", "saes-svd"])
def test_fewer_tokens_than_features_warn_and_work(recipe: str, llama: PreTrainedModel, tokens: Tensor) -> None:
    with pytest.warns(UserWarning, match=r"24 calibration tokens are fewer .*down_proj with 48"):
        report = eckart.compress(llama, recipe, KEEP, tokens[:1])
    assert report.warnings
    with torch.no_grad():
        assert torch.isfinite(llama(tokens).logits).all()


@pytest.mark.parametrize("recipe", ["svd", "svd-llm", "aa-svd-layer"])
def test_a_weight_that_is_nan_is_named(recipe: str, llama: PreTrainedModel, tokens: Tensor) -> None:
    with torch.no_grad():
        llama.get_submodule("model.layers.1.self_attn.o_proj").weight[3, 4] = torch.nan
    with pytest.raises(NonFiniteError, match=r"model\.layers\.1\."):
        eckart.compress(llama, recipe, KEEP, tokens)


def test_an_activation_that_is_infinite_is_named(llama: PreTrainedModel, tokens: Tensor) -> None:
    with torch.no_grad():
        llama.model.layers[2].input_layernorm.weight[0] = torch.inf
    with pytest.raises(NonFiniteError, match=r"input of model\.layers\.2\.self_attn\.q_proj"):
        eckart.compress(llama, "svd-llm", KEEP, tokens)


def test_an_objective_that_needs_tokens_says_so(llama: PreTrainedModel) -> None:
    from eckart.plan import make_plan
    from eckart.walk import compress_blocks

    recipe = eckart.RECIPES["svd-llm"]
    with pytest.raises(CalibrationError, match="needs calibration text"):
        compress_blocks(llama, recipe, make_plan(llama, recipe, KEEP), None, device=torch.device("cpu"))
