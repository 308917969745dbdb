"""Whole models: what is written is what was computed, exactly, and each choice is that of its formula."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from tests.conftest import make_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

import eckart
from eckart.errors import CheckpointError, EckartError, RecipeError
from eckart.layers import KeptLinear, is_replaced, weight_matrix
from eckart.maths.narrowing import greedy_units, largest, ridge_leverage

pytestmark = pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
KEEP = 0.6


def logits(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(tokens).logits
        return result


def padded(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model with dense weights that have zeros where something was dropped."""
    model = copy.deepcopy(model)
    for name, layer in list(model.named_modules()):
        if is_replaced(layer):
            model.set_submodule(name, layer.to_dense())
    return model


def inputs_of(model: PreTrainedModel, path: str, tokens: Tensor) -> Tensor:
    """Return what a linear is handed, (n, tokens) float64."""
    seen: list[Tensor] = []
    hook = model.get_submodule(path).register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    logits(model, tokens)
    hook.remove()
    return torch.cat(seen).flatten(0, -2).T.double()


def weight_of(model: PreTrainedModel, path: str) -> Tensor:
    return weight_matrix(model.get_submodule(path)).detach().double()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "opt", "gpt2"])
def test_it_is_the_model_with_zeros_and_is_read_back(kind: str, tokens: Tensor, tmp_path: Path) -> None:
    model = make_model(kind)
    report = eckart.compress(model, "modegpt", KEEP, tokens)
    assert report.keep <= KEEP
    now = logits(model, tokens)
    assert torch.allclose(now, logits(padded(model), tokens), atol=1e-4)
    eckart.save(model, report, tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(again, tokens), now)
    stored = sum(2 * p.numel() for n, x in again.named_modules() if isinstance(x, KeptLinear) for p in [x.weight])
    indices = sum(b.numel() * b.itemsize for x in again.modules() if isinstance(x, KeptLinear) for b in x.buffers())
    assert stored + indices == sum(layer.bytes for layer in report.layers if layer.kept)
    assert {layer.path for layer in report.layers if layer.kept} == {
        n for n, x in again.named_modules() if isinstance(x, KeptLinear)
    }


@pytest.mark.parametrize("units", ["leverage", "greedy"])
def test_units_are_those_of_the_formula_fitted_by_least_squares(units: str, tokens: Tensor) -> None:
    model = make_model("llama")
    original = copy.deepcopy(model)
    overrides = [f"pairs.units={units}", "allocation.multiple=1", "pairs.ridge_scale=tokens"]
    report = eckart.compress(model, "fewer-units", KEEP, tokens, overrides=overrides)
    mlp = "model.layers.1.mlp"
    h, down = inputs_of(original, f"{mlp}.down_proj", tokens), weight_of(original, f"{mlp}.down_proj")
    moment, kept = h @ h.T, report.ranks[f"{mlp}.down_proj"]
    assert kept == int(KEEP * 48)
    if units == "leverage":
        places = largest(ridge_leverage(moment / h.shape[1], 0.01), kept)
    else:
        places = greedy_units(moment, down @ moment, kept)
    for name in ("gate_proj", "up_proj"):
        now = model.get_submodule(f"{mlp}.{name}").weight
        assert torch.equal(now, weight_matrix(original.get_submodule(f"{mlp}.{name}"))[places])
    expected = torch.linalg.lstsq(h[places].T, (down @ h).T, driver="gelsd").solution.T
    found = weight_of(model, f"{mlp}.down_proj")
    assert torch.allclose(found @ h[places], expected @ h[places], atol=1e-4)
    lost = (down @ h - found @ h[places]).norm() / (down @ h).norm()
    (record,) = (layer for layer in report.layers if layer.path == f"{mlp}.down_proj")
    assert record.error == pytest.approx(float(lost), rel=1e-3)


def test_greedy_units_lose_less_than_leverage(tokens: Tensor) -> None:
    errors = {}
    for units in ("leverage", "greedy"):
        report = eckart.compress(make_model("llama"), "fewer-units", KEEP, tokens, overrides=[f"pairs.units={units}"])
        errors[units] = sum(layer.error for layer in report.layers)
    assert errors["greedy"] < errors["leverage"]


def test_planes_are_kept_whole_and_alike_for_heads_that_share_a_key(tokens: Tensor) -> None:
    model = make_model("qwen2")
    original = copy.deepcopy(model)
    eckart.compress(model, "modegpt", KEEP, tokens, overrides=["pairs.units=none", "pairs.values=none"])
    attention = "model.layers.0.self_attn"
    q, k = (model.get_submodule(f"{attention}.{name}_proj") for name in ("q", "k"))
    of_q, of_k = q.places().view(4, -1) % 8, k.places().view(2, -1) % 8
    x = inputs_of(original, f"{attention}.q_proj", tokens)
    squares = []
    for name in ("q", "k"):
        linear = original.get_submodule(f"{attention}.{name}_proj")
        outputs = weight_matrix(linear).detach().double() @ x + linear.bias.detach().double()[:, None]
        squares.append(outputs.square().mean(dim=1).view(-1, 8))
    for head in range(2):
        scores = [
            sum(float(squares[0][h, i] * squares[1][head, i]) for h in (2 * head, 2 * head + 1) for i in (p, p + 4))
            for p in range(4)
        ]
        best = sorted(sorted(range(4), key=lambda p: -scores[p])[: of_k.shape[1] // 2])
        assert of_k[head].tolist() == [*best, *(p + 4 for p in best)]
        for h in (2 * head, 2 * head + 1):
            assert torch.equal(of_q[h], of_k[head])
    assert torch.equal(q.bias, original.get_submodule(f"{attention}.q_proj").bias[q.places()])


@pytest.mark.parametrize("position", [0, 1, 1000])
def test_planes_that_are_dropped_are_zeros_at_any_position(position: int, tokens: Tensor) -> None:
    model = make_model("llama")
    eckart.compress(model, "modegpt", KEEP, tokens, overrides=["pairs.units=none", "pairs.values=none"])
    places = torch.arange(8)[None] + position
    with torch.no_grad():
        found = model(tokens[:1, :8], position_ids=places).logits
        expected = padded(model)(tokens[:1, :8], position_ids=places).logits
    assert torch.allclose(found, expected, atol=1e-5)


def test_values_of_mixed_inputs_lose_less_with_each_sweep(tokens: Tensor) -> None:
    errors = []
    for overrides in (["pairs.values=inputs"], [], ["pairs.sweeps=1"], ["pairs.sweeps=3"]):
        shared = ["pairs.units=none", "pairs.keys=none", "pairs.values=mixed", "allocation.multiple=1"]
        report = eckart.compress(make_model("llama"), "fewer-units", KEEP, tokens, overrides=[*shared, *overrides])
        errors.append(sum(layer.error for layer in report.layers if layer.path.endswith("o_proj")))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.99 * errors[1]


@pytest.mark.parametrize("values", ["inputs", "mixed"])
def test_the_error_of_values_is_that_of_the_projection(values: str, tokens: Tensor) -> None:
    model = make_model("qwen2")
    original = copy.deepcopy(model)
    overrides = ["pairs.units=none", "pairs.keys=none", f"pairs.values={values}", "allocation.multiple=1"]
    report = eckart.compress(model, "fewer-units", KEEP, tokens, overrides=overrides)
    path = "model.layers.0.self_attn.o_proj"  # in front of which nothing else has changed
    lost = weight_of(original, path) @ inputs_of(original, path, tokens)
    now = model.get_submodule(path)
    found = now.dense_weight() @ inputs_of(model, path, tokens)
    (record,) = (layer for layer in report.layers if layer.path == path)
    assert record.error == pytest.approx(float((lost - found).norm() / lost.norm()), rel=1e-3)
    assert 0 < record.error < 1


def test_anchored_units_look_at_both_models(tokens: Tensor) -> None:
    errors = []
    for objective in ("input-aware", "anchored"):
        model = make_model("llama")
        original = copy.deepcopy(model)
        eckart.compress(model, "fewer-units", 0.5, tokens, overrides=[f"objective={objective}"])
        path = "model.layers.2.mlp.down_proj"
        wanted = weight_of(original, path) @ inputs_of(original, path, tokens)
        found = weight_of(model, path) @ inputs_of(model, path, tokens)
        errors.append(float((wanted - found).norm()))
    assert errors[1] < errors[0]


def test_blocks_can_be_refined(tokens: Tensor) -> None:
    model = make_model("llama")
    overrides = ["refinement=block", "refinement.epochs=1", "refinement.batch=2"]
    report = eckart.compress(model, "modegpt", KEEP, tokens, overrides=overrides)
    assert len(report.refinements) == 3
    assert torch.isfinite(logits(model, tokens)).all()


def test_from_files_it_is_the_same_and_goes_on_where_it_stopped(tokens: Tensor, tmp_path: Path) -> None:
    make_model("llama").save_pretrained(tmp_path / "model")

    class Stop(eckart.Callback):
        def on_block(self, number: int) -> None:
            if number == 2:
                raise KeyboardInterrupt

    samples = [{"input_ids": row[None]} for row in tokens]
    arguments = (tmp_path / "model", tmp_path / "out", "modegpt", KEEP)
    with pytest.raises(KeyboardInterrupt):
        eckart.compress_checkpoint(*arguments, calibration=samples, callback=Stop())
    eckart.compress_checkpoint(*arguments, calibration=samples, resume=True)
    model = make_model("llama")
    eckart.compress(model, "modegpt", KEEP, tokens)
    found = eckart.load_model(tmp_path / "out")
    assert torch.allclose(logits(found, tokens), logits(model, tokens), atol=1e-4)


def test_what_does_not_go_together_is_refused() -> None:
    for override, what in (
        ("objective=weight", "objective 'weight'"),
        ("objective.affine=true", "an affine objective"),
        ("allocation=energy", "allocation 'energy'"),
        ("structure=pivoted", "structure 'pivoted'"),
        ("precision=8-bit", "precision '8-bit'"),
        ("sharing=shared", "sharing 'shared'"),
        ("solver=randomized", "solver 'randomized'"),
        ("targets.*.down_proj.keep=0.5", "a size of its own"),
    ):
        with pytest.raises(RecipeError, match="pairs=narrow shrinks widths.*" + what):
            eckart.load_recipe("fewer-units", [override])


def test_linears_that_are_left_take_their_pair_along(tokens: Tensor) -> None:
    model = make_model("llama")
    report = eckart.compress(model, "modegpt", KEEP, tokens, ignore=["*.k_proj", "model.layers.0.*"])
    assert {layer.path.split(".")[2] for layer in report.layers} == {"1", "2"}
    assert not [layer for layer in report.layers if layer.path.endswith(("q_proj", "k_proj"))]
    assert isinstance(model.model.layers[1].self_attn.q_proj, nn.Linear)
    assert not isinstance(model.model.layers[1].self_attn.q_proj, KeptLinear)


def test_a_model_without_pairs_is_refused(tokens: Tensor) -> None:
    with pytest.raises(EckartError, match=r"No widths were found.*Both linears of a pair.*pairs=none"):
        eckart.compress(make_model("phi3"), "modegpt", KEEP, tokens)


def test_a_damaged_config_gets_a_message(tokens: Tensor, tmp_path: Path) -> None:
    model = make_model("llama")
    eckart.save(model, eckart.compress(model, "modegpt", KEEP, tokens), tmp_path / "out")
    file = tmp_path / "out" / "config.json"
    sound = file.read_text()
    for change, message in (
        ("side", "kept.*cannot be"),
        ("rank", "expected a whole number from 1 to 32"),
        ("name", "a side for 'nowhere'"),
        ("direct", "has only what is kept, without places"),
    ):
        config = json.loads(sound)
        described = config["quantization_config"]
        path = "model.layers.0.self_attn.q_proj"
        if change == "side":
            described["kept"][path]["side"] = "middle"
        elif change == "rank":
            described["ranks"][path] = 10**9
        elif change == "name":
            described["kept"]["nowhere"] = described["kept"].pop(path)
        else:
            described["kept"][path]["direct"] = True
        file.write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=message):
            AutoModelForCausalLM.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_cache_keeps_what_is_left_of_keys_and_values(kind: str, tokens: Tensor) -> None:
    model = make_model(kind)
    report = eckart.compress(model, "modegpt", KEEP, tokens)
    options = {"max_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    expected = model.generate(tokens[:1, :8], **options)
    cache = eckart.latent_cache(model)
    kept = {path: rank for path, rank in report.ranks.items() if path.endswith(("k_proj", "v_proj"))}
    for layer in cache.size.layers:
        mine = [rank for path, rank in kept.items() if path.startswith(f"{layer.path}.")]
        if len(mine) == 2:
            assert layer.stored == 4 * sum(mine)  # bytes in float32
    assert cache.size.share < 1
    found = model.generate(tokens[:1, :8], **options)
    assert torch.equal(found.sequences, expected.sequences)
    for ours, theirs in zip(found.logits, expected.logits, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
