"""The walk, against an implementation that keeps everything in memory and follows the definitions literally."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import pytest
import torch
from tests.conftest import CONFIGS, dealt, make_model, one_of_each, shorter
from tests.layers.helpers import from_factors
from tests.tiny_models import Samples, forward_inputs, make
from torch import Tensor
from transformers import PreTrainedModel

import eckart
from eckart.blocks.block import hooks
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.hidden_units import Ordered
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.compression.plan import make_plan
from eckart.compression.walk import compress_blocks
from eckart.data.calibration import calibrate
from eckart.errors import CalibrationError, NonFiniteError
from eckart.layers import FactoredLinear, LowRankLinear, bias_vector, input_of, is_replaced, weight_matrix

KEEP = 0.6
ONE_STREAM = ("input-aware", "shift-aware")  # their sums are of float32 products


def inputs_of(model: PreTrainedModel, path: str, tokens: Tensor | Samples) -> Tensor:
    """Return what a linear is handed in plain forward passes of the whole model, (in features, tokens) float64."""
    return all_inputs_of(model, [path], tokens)[path]


def all_inputs_of(model: PreTrainedModel, paths: Iterable[str], tokens: Tensor | Samples) -> dict[str, Tensor]:
    seen: dict[str, list[Tensor]] = {path: [] for path in paths}

    def record(path: str) -> Callable[..., None]:
        return lambda _, args, kwargs: seen[path].append(input_of(args, kwargs).flatten(0, -2))

    with torch.no_grad(), hooks() as handles:
        for path in seen:
            handles.append(model.get_submodule(path).register_forward_pre_hook(record(path), with_kwargs=True))
        for sample in [{"input_ids": tokens}] if isinstance(tokens, Tensor) else tokens:
            model(**forward_inputs(model, sample))
    return {path: torch.cat(parts).double().T for path, parts in seen.items()}


# What a human reads off the source: the linears whose output is added to the residual stream, and a module in the
# block whose input that stream is ("": the block itself).
RESIDUALS = {
    "llama": {"self_attn.o_proj": "", "mlp.down_proj": "post_attention_layernorm"},
    "qwen2": {"self_attn.o_proj": "", "mlp.down_proj": "post_attention_layernorm"},
    "phi3": {"self_attn.o_proj": "", "mlp.down_proj": "post_attention_layernorm"},
    "opt": {"self_attn.out_proj": "", "fc2": "final_layer_norm"},
    "gpt2": {"attn.c_proj": "", "mlp.c_proj": "ln_2"},
}


def literal(
    model: PreTrainedModel,
    recipe: eckart.Recipe,
    tokens: Tensor | Samples,
    residuals: Mapping[str, str] = MappingProxyType({}),
) -> PreTrainedModel:
    """Compress group by group with full forward passes of two whole models and an SVD of the raw inputs."""
    original, compressed = copy.deepcopy(model), copy.deepcopy(model)
    items = None if isinstance(tokens, Tensor) else calibrate(tokens, samples=1, length=None, seed=0)
    plan = make_plan(model, recipe, KEEP, calibration=items)
    objective, affine, share = recipe.objective.name, recipe.objective.adds_bias, recipe.objective.residual_share
    originals = all_inputs_of(original, [g.linears[0].path for block in plan.blocks for g in block.groups], tokens)
    for block in plan.blocks:
        for group in block.groups:
            leader = group.linears[0].path
            x = originals[leader]
            z = x if objective == "input-aware" else inputs_of(compressed, leader, tokens)
            for ref in group.linears:
                linear = compressed.get_submodule(ref.path)
                weight = weight_matrix(linear).double()
                goal = weight @ (z if objective == "shift-aware" else x)
                if ref.name in residuals:
                    place = f"{block.path}.{residuals[ref.name]}".rstrip(".")
                    goal = goal + share * (inputs_of(original, place, tokens) - inputs_of(compressed, place, tokens))
                rank = plan.ranks[ref.path]
                assert rank is not None
                goal_mean, mean = (s.mean(dim=1) if affine else torch.zeros(len(s)).double() for s in (goal, z))
                goal, centred = goal - goal_mean[:, None], z - mean[:, None]
                scale = z.norm(dim=1, keepdim=True).clamp_min(1e-12)
                directions, sizes, basis = torch.linalg.svd(centred / scale, full_matrices=False)
                # Attention over few values gives inputs that do not span all directions.
                # And what is left of large means is only known to the rounding of these.
                known = torch.maximum(sizes[0], (mean / scale[:, 0]).norm() * (10 * z.shape[1]) ** 0.5)
                kept = sizes > (10**-3.5 if objective in ONE_STREAM else 1e-6) * known
                u, s, vt = torch.linalg.svd(goal @ basis[kept].T, full_matrices=False)
                first = vt[:rank] @ (directions[:, kept] / sizes[kept]).T / scale.T
                second = u[:, :rank] * s[:rank]
                layer = from_factors(LowRankLinear, linear, second, first)
                if affine:
                    layer = LowRankLinear.empty_like(linear, rank, affine=True)
                    before = 0 if linear.bias is None else linear.bias
                    assert layer.second.bias is not None
                    with torch.no_grad():
                        layer.first.weight.copy_(first)
                        layer.second.weight.copy_(second)
                        layer.second.bias.copy_(before + goal_mean - second @ first @ mean)
                compressed.set_submodule(ref.path, layer)
    return compressed


def assert_equals_literal(
    model: PreTrainedModel,
    recipe: eckart.Recipe,
    expected: PreTrainedModel,
    tokens: Tensor | Samples,
    tolerance: float = 1e-2,
) -> None:
    report = eckart.compress(model, recipe, KEEP, tokens)
    inputs = all_inputs_of(expected, [layer.path for layer in report.layers], tokens)
    for path, z in inputs.items():
        ours, theirs = model.get_submodule(path), expected.get_submodule(path)
        assert isinstance(ours, LowRankLinear)
        assert isinstance(theirs, LowRankLinear)
        # Shifted inputs can be nearly singular (attention mixes few values), and then only the outputs agree.
        biases = [layer.dense_bias() for layer in (ours, theirs)]
        outputs = [
            layer.dense_weight() @ z + (0 if bias is None else bias.detach()[:, None])
            for layer, bias in zip((ours, theirs), biases, strict=True)
        ]
        assert (outputs[0] - outputs[1]).norm() < tolerance * (theirs.dense_weight() @ z).norm(), path
    for sample in [{"input_ids": tokens}] if isinstance(tokens, Tensor) else tokens:
        with torch.no_grad():
            one, other = (m(**forward_inputs(model, sample)).logits for m in (model, expected))
        assert (one - other).norm() < tolerance * other.norm()


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("recipe", ["svd-llm", "dobi-shift", "aa-svd-layer"])
def test_equals_the_literal_implementation(kind: str, recipe: str, tokens: Tensor) -> None:
    chosen = eckart.RECIPES[recipe]
    assert_equals_literal(make_model(kind), chosen, literal(make_model(kind), chosen, tokens), tokens)


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
@pytest.mark.parametrize(
    ("kind", "recipe"),
    [("bart", "svd-llm"), *((kind, "aa-svd-layer") for kind in ("bart", "t5", "llava", "qwen3-vl", "gemma3n"))],
)
def test_equals_the_literal_implementation_through_all_towers(kind: str, recipe: str) -> None:
    """What a later tower is handed is what the original and the compressed model made of the one before."""
    chosen = eckart.RECIPES[recipe]
    model, samples = make(kind, count=8)
    expected = literal(model, chosen, samples)
    assert sum(isinstance(module, LowRankLinear) for module in expected.modules()) > 20
    assert_equals_literal(model, chosen, expected, samples, tolerance=3e-2)


@pytest.mark.parametrize("kind", ["llama", "opt", "gpt2"])
@pytest.mark.parametrize("recipe", ["svd-llm", "dobi-shift", "aa-svd-layer"])
def test_affine_equals_the_literal_implementation(kind: str, recipe: str, tokens: Tensor) -> None:
    chosen = eckart.load_recipe(recipe, ["objective.affine=true"])
    # Which directions hardly any input reaches depends on rounding, as below.
    assert_equals_literal(make_model(kind), chosen, literal(make_model(kind), chosen, tokens), tokens, tolerance=3e-2)


@pytest.mark.parametrize("kind", RESIDUALS)
@pytest.mark.parametrize(("share", "affine"), [(0.5, "false"), (1, "false"), (1, "true")])
def test_residual_anchoring_equals_the_literal_implementation(
    kind: str, share: float, affine: str, tokens: Tensor
) -> None:
    overrides = [f"objective.residual_anchoring={share}", f"objective.affine={affine}"]
    chosen = eckart.load_recipe("aa-svd-layer", overrides)
    expected = literal(make_model(kind), chosen, tokens, RESIDUALS[kind])
    # What is drawn from inputs that hardly reach some direction depends on where such a direction is cut off.
    assert_equals_literal(make_model(kind), chosen, expected, tokens, tolerance=3e-2)


def test_residual_anchoring_draws_the_stream_to_the_original_one(tokens: Tensor) -> None:
    distances = []
    for share in (0, 1):
        model = make_model("llama")
        with torch.no_grad():
            before = model(tokens).logits
            eckart.compress(model, "aa-svd-layer", KEEP, tokens, overrides=[f"objective.residual_anchoring={share}"])
            distances.append(float((model(tokens).logits - before).norm()))
    assert distances[1] < 0.9 * distances[0]


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        *((name, tuple(shorter(name))) for name in one_of_each("objective", "structure", "precision", "sharing")),
        ("svd-llm", ("objective.affine=true",)),
        ("saes-svd", ("objective.affine=true", "objective.residual_anchoring=1")),
        ("saes-svd", ("objective.affine=true", "structure=pivoted")),
    ],
)
def test_reported_errors_are_those_of_the_outputs(
    recipe: str, overrides: tuple[str, ...], llama: PreTrainedModel, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = copy.deepcopy(llama)
    # So that each output is where it was.
    monkeypatch.setattr("eckart.compression.unit_order.put_in_order", lambda block, units: Ordered([], {}))
    # Refinement comes after the errors.
    overrides = (*overrides, "refinement=none", "distillation=none")
    report = eckart.compress(llama, recipe, KEEP, tokens, overrides=overrides)
    streams = report.recipe.objective.input_source.name
    for layer in report.layers:
        weight = weight_matrix(original.get_submodule(layer.path)).detach().double()
        layer_now = llama.get_submodule(layer.path)
        product = layer_now.dense_weight() if is_replaced(layer_now) else weight
        if streams == "NONE":
            expected = (weight - product).norm() / weight.norm()
        else:
            x = inputs_of(original, layer.path, tokens)
            z = x if streams == "ORIGINAL" else inputs_of(llama, layer.path, tokens)
            ref = weight @ (z if streams == "COMPRESSED" else x)
            bias = layer_now.dense_bias() if isinstance(layer_now, FactoredLinear) else None
            outputs = product @ z + (0 if bias is None else bias.detach()[:, None])
            expected = (ref - outputs).norm() / ref.norm()
        assert layer.error == pytest.approx(float(expected), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    ("recipe", "kind"), dealt(["svd-llm-v2", "pgsvd", "kfac-svd-lems", "io-svd", "svd-llm"], ["qwen2", "llama", "gpt2"])
)
@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_biases_make_up_for_mean_outputs_however_the_equation_was_solved(
    recipe: str, kind: str, tokens: Tensor
) -> None:
    original, model = make_model(kind), make_model(kind)
    report = eckart.compress(model, recipe, KEEP, tokens, overrides=["objective.affine=true", *shorter(recipe)])
    inputs = all_inputs_of(original, report.ranks, tokens)
    assert report.ranks
    for path in report.ranks:
        layer, linear = model.get_submodule(path), original.get_submodule(path)
        assert isinstance(layer, FactoredLinear)
        mean, bias, before = inputs[path].mean(dim=1), layer.dense_bias(), bias_vector(linear)
        assert bias is not None
        expected = weight_matrix(linear).detach().double() @ mean + (0 if before is None else before.detach().double())
        torch.testing.assert_close(layer.dense_weight() @ mean + bias.detach().double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
@pytest.mark.parametrize(
    ("recipe", "dtype"),
    dealt(
        one_of_each("structure", "precision", "refinement", "distillation", "preparation", "pairs"),
        [torch.float32, torch.bfloat16],
    ),
)
def test_every_tensor_keeps_its_dtype(recipe: str, dtype: torch.dtype, llama: PreTrainedModel, tokens: Tensor) -> None:
    llama.to(dtype)
    llama.model.rotary_emb.inv_freq = llama.model.rotary_emb.inv_freq.float()
    frequencies = llama.model.rotary_emb.inv_freq.clone()
    norm = llama.model.norm.weight.clone()
    eckart.compress(llama, recipe, KEEP, tokens, overrides=shorter(recipe))
    assert {parameter.dtype for parameter in llama.parameters()} == {dtype}
    assert torch.equal(llama.model.rotary_emb.inv_freq, frequencies)
    assert torch.equal(llama.model.norm.weight, norm)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("structure", ["two-factor", "pivoted"])
@pytest.mark.parametrize("affine", ["false", "true"])
def test_bytes_are_at_most_what_was_asked_for(kind: str, structure: str, affine: str, tokens: Tensor) -> None:
    """And they are those of the numbers that are stored, but for biases that were there before."""
    model = make_model(kind)
    known = {name for name, _ in model.named_parameters()}
    overrides = [f"objective.affine={affine}", f"structure={structure}"]
    report = eckart.compress(model, "svd-llm", KEEP, tokens, overrides=overrides)
    assert report.keep <= KEEP
    stored = sum(2 * parameter.numel() for parameter in model.parameters())
    stored += sum(2 * buffer.numel() for name, buffer in model.named_buffers() if name.endswith(".index"))
    assert report.whole_bytes_after == stored
    for record in report.layers:
        layer = model.get_submodule(record.path)
        has_bias = f"{record.path}.bias" in known
        assert record.rank is not None
        numbers = sum(p.numel() for p in layer.parameters() if p.ndim == 2 or not has_bias)
        assert record.bytes == 2 * numbers + sum(buffer.nbytes for buffer in layer.buffers())
        assert (layer.dense_bias() is not None) == (has_bias or affine == "true")


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


@pytest.mark.parametrize("objective", ["affine=false", "residual_anchoring=0"])
def test_the_choices_as_they_are_by_default_change_nothing(objective: str, tokens: Tensor) -> None:
    models = [make_model("llama") for _ in range(2)]
    for model, overrides in zip(models, ([], [f"objective.{objective}"]), strict=True):
        eckart.compress(model, "saes-svd", KEEP, tokens, overrides=overrides)
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[key], second[key]) for key in first | second)


@pytest.mark.parametrize("recipe", ["svd-llm", "aa-svd-layer"])
def test_a_ragged_last_batch_counts_like_any_other(
    recipe: str, monkeypatch: pytest.MonkeyPatch, tokens: Tensor
) -> None:
    models = [make_model("opt") for _ in range(2)]
    eckart.compress(models[0], recipe, KEEP, tokens)
    monkeypatch.setattr("eckart.data.calibration.BATCH_TOKENS", 24 * 5)  # 12 samples as 5 + 5 + 2
    eckart.compress(models[1], recipe, KEEP, tokens)
    with torch.no_grad():
        ours, theirs = (model(tokens).logits for model in models)
    assert (ours - theirs).norm() < 1e-2 * theirs.norm()


@pytest.mark.parametrize("recipe", ["svd-llm", "saes-svd"])
@pytest.mark.parametrize("overrides", [(), ("objective.affine=true",)])
def test_fewer_tokens_than_features_warn_and_work(
    recipe: str, overrides: tuple[str, ...], llama: PreTrainedModel, tokens: Tensor
) -> None:
    with pytest.warns(UserWarning, match=r"24 calibration tokens are fewer .*down_proj with 48"):
        report = eckart.compress(llama, recipe, KEEP, tokens[:1], overrides=overrides)
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
        llama.model.layers[2].input_layernorm.weight[0] = torch.finfo(torch.float32).max
    with pytest.raises(NonFiniteError, match=r"input of model\.layers\.2\.self_attn\.q_proj"):
        eckart.compress(llama, "svd-llm", KEEP, tokens)


def test_an_objective_that_needs_tokens_says_so(llama: PreTrainedModel) -> None:
    plan = make_plan(llama, eckart.RECIPES["svd-llm"], KEEP)
    model = BlockwiseModel(llama, plan.blocks, ResidentWeights(), torch.device("cpu"), ScratchSpace())
    with pytest.raises(CalibrationError, match="needs calibration text"):
        compress_blocks(model, plan)
