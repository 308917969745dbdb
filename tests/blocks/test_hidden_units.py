from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from tests.blocks.test_residual import Example
from tests.conftest import CONFIGS, make_model
from tests.layers.helpers import from_factors
from torch import Tensor, nn
from torch.nn.functional import relu, scaled_dot_product_attention, silu
from transformers import AutoModelForCausalLM, PhiConfig, PreTrainedModel

import eckart
from eckart.blocks.block_arguments import BlockArguments
from eckart.blocks.discovery import find_blocks
from eckart.blocks.hidden_units import HiddenUnits, Ordered, find_hidden_units, put_in_order
from eckart.layers import LowRankLinear, PivotedLinear, QuantizedLinear, fill_child
from eckart.maths.quantization import QuantScheme

WIDTH, UNITS = 8, 24
CALL = BlockArguments()

# What a human reads off the source of each architecture. Where gate and up are one projection there are none.
MLP: dict[str, tuple[tuple[str, ...], str] | None] = {
    "llama": (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
    "qwen2": (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
    "gemma3": (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
    "opt": (("fc1",), "fc2"),
    "phi3": None,
    "gpt2": (("mlp.c_fc",), "mlp.c_proj"),
    "gpt-neox": (("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h"),
}


def pivoted_layers(model: nn.Module) -> dict[str, PivotedLinear]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, PivotedLinear)}


def without_index(model: nn.Module) -> set[str]:
    return {name for name, layer in pivoted_layers(model).items() if layer.index is None}


def in_order_by_chance(model: nn.Module) -> set[str]:
    return {n for n, layer in pivoted_layers(model).items() if torch.equal(layer.places(), layer.places().sort()[0])}


def logits(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(tokens).logits
        return result


@pytest.mark.parametrize("kind", CONFIGS)
def test_found_in_every_block(kind: str) -> None:
    model = make_model(kind)
    for dtype in (torch.float32, torch.bfloat16):
        for block in find_blocks(model.to(dtype), units=True):
            names = MLP[kind]
            assert block.units == (() if names is None else (HiddenUnits(*names),))
    assert not find_blocks(model)[0].units


def test_found_where_attention_and_mlp_are_handed_the_same_tensor() -> None:
    config = PhiConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0
    )
    torch.manual_seed(0)
    for block in find_blocks(AutoModelForCausalLM.from_config(config).eval(), units=True):
        assert {"self_attn.q_proj", "mlp.fc1"} < {ref.name for ref in block.groups[0].linears}
        assert block.units == (HiddenUnits(("mlp.fc1",), "mlp.fc2"),)


def assert_same_errors(ours: eckart.CompressionResult, theirs: eckart.CompressionResult) -> None:
    """A unit of the original model is compared with the same one of the compressed model, wherever that is now."""
    for block, other in zip(ours.blocks, theirs.blocks, strict=True):
        for path, error in other.layers.items():
            found = block.layers[path]
            assert (found is None) == (error is None)
            if found is not None and error is not None:
                assert found.relative == pytest.approx(error.relative, rel=1e-2, abs=1e-4)


def compressed_twice(
    kind: str, tokens: Tensor, monkeypatch: pytest.MonkeyPatch, *settings: str, recipe: str = "svd-llm"
) -> tuple[PreTrainedModel, PreTrainedModel, eckart.CompressionResult]:
    """Return a pivoted model, the same with each index as it is found, and the report of the first."""
    ours, theirs = make_model(kind), make_model(kind)
    keep = {"precision=8-bit": 0.4, "precision=4-bit": 0.27}.get(settings[0], 0.6) if settings else 0.6
    overrides = ["structure=pivoted", *settings]
    report = eckart.compress(ours, recipe, keep, tokens, overrides=overrides)
    with monkeypatch.context() as patch:
        patch.setattr("eckart.compression.unit_order.put_in_order", lambda block, units: Ordered([], {}))
        plain = eckart.compress(theirs, recipe, keep, tokens, overrides=overrides)
    spared = sum(2 * layer.out_features for layer in report.layers if layer.in_order)
    assert sum(layer.bytes for layer in report.layers) == sum(layer.bytes for layer in plain.layers) - spared
    assert {layer.path for layer in report.layers if layer.in_order} == without_index(ours)
    assert_same_errors(report, plain)
    return ours, theirs, report


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("settings", [(), ("precision=8-bit", "objective.affine=true")])
def test_the_model_stays_the_same_and_one_producer_needs_no_index(
    kind: str, settings: tuple[str, ...], tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs, _ = compressed_twice(kind, tokens, monkeypatch, *settings)
    expected = set(in_order_by_chance(theirs))
    for block in find_blocks(make_model(kind)):
        # The first that is pivoted: at this size some stay dense.
        known = MLP[kind]
        names = known[0] if known else ()
        layers = [name for name in names if f"{block.path}.{name}" in pivoted_layers(theirs)]
        expected |= {f"{block.path}.{name}" for name in layers[:1]}
    assert without_index(ours) == expected
    assert len(expected) >= (0 if MLP[kind] is None else ours.config.num_hidden_layers)
    torch.testing.assert_close(logits(ours, tokens), logits(theirs, tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("recipe", ["svd", "saes-svd"])
def test_without_data_and_with_both_streams(recipe: str, tokens: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs, _ = compressed_twice("opt", tokens, monkeypatch, recipe=recipe)
    assert {"model.decoder.layers.0.fc1", "model.decoder.layers.1.fc1"} <= without_index(ours)
    torch.testing.assert_close(logits(ours, tokens), logits(theirs, tokens), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["opt", "llama"])
def test_columns_that_share_scales_are_left_alone(kind: str, tokens: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs, _ = compressed_twice(kind, tokens, monkeypatch, "precision=4-bit")
    assert pivoted_layers(ours)
    assert without_index(ours) == in_order_by_chance(theirs)
    assert torch.equal(logits(ours, tokens), logits(theirs, tokens))


def test_refinement_trains_the_block_in_its_new_order(tokens: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    training = ("refinement=block", "refinement.epochs=2", "refinement.batch=2")
    with pytest.warns(eckart.errors.EckartWarning, match="optimiser steps"):
        ours, theirs, report = compressed_twice("opt", tokens, monkeypatch, *training)
    assert any((record.after or 0) < (record.before or 0) for record in report.refinements)
    assert "model.decoder.layers.0.fc1" in without_index(ours)
    torch.testing.assert_close(logits(ours, tokens), logits(theirs, tokens), rtol=2e-2, atol=2e-2)


def heads(count: int, *, gain: Iterable[float] = (1.0,)) -> Example:
    """Attention, whose q, k and v have as many outputs as o has inputs, and perhaps a scale for each of these."""

    def run(block: Any, hidden: Tensor) -> Tensor:
        def split(layer: nn.Module) -> Tensor:
            result: Tensor = layer(hidden).unflatten(-1, (count, -1)).transpose(1, 2)
            return result

        mixed = scaled_dot_product_attention(split(block.q), split(block.k), split(block.v), is_causal=True)
        result: Tensor = hidden + block.o(mixed.transpose(1, 2).flatten(2) * torch.tensor([*gain]))
        return result

    return Example(run, **{name: nn.Linear(WIDTH, WIDTH) for name in "qkvo"})


def found(block: Example, *groups: str) -> tuple[HiddenUnits, ...]:
    hidden = torch.randn(1, 6, WIDTH, generator=torch.Generator().manual_seed(0))
    return find_hidden_units(block, CALL, hidden, [group.split() for group in groups])


def test_heads_are_no_units() -> None:
    for count in (2, 4):
        assert not found(heads(count), "q k v", "o")
    # Of one head they are, if no position turns pairs of them, and where each is a head.
    for count in (1, WIDTH):
        assert found(heads(count), "q k v", "o") == (HiddenUnits(("q", "k", "v"), "o"),)
    assert not found(heads(1, gain=torch.linspace(0.9, 1.1, WIDTH).tolist()), "q k v", "o")


def mlp(between=relu, after=lambda hidden, units, out: hidden + out) -> Example:
    def run(block: Any, hidden: Tensor) -> Tensor:
        units = between(block.up(hidden))
        result: Tensor = after(hidden, units, block.down(units))
        return result

    return Example(run, up=nn.Linear(WIDTH, UNITS), down=nn.Linear(UNITS, WIDTH))


ONE_OF_THEM = 1 + 0.01 * torch.eye(UNITS)[3]


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (mlp(), True),
        (mlp(lambda units: units / units.square().mean(-1, keepdim=True).sqrt()), True),
        (mlp(lambda units: relu(units) * ONE_OF_THEM), False),
        (mlp(lambda units: units.cumsum(-1)), False),
        (mlp(lambda units: units.sort().values), False),
        (mlp(lambda units: torch.zeros_like(units)), False),
        (mlp(after=lambda hidden, units, out: hidden + out + units[..., :WIDTH]), False),
        (mlp(after=lambda hidden, units, out: 1e4 * hidden + out + units.sum(-1, keepdim=True)), True),
    ],
)
def test_units_are_told_by_numbers(block: Example, expected: bool) -> None:
    assert found(block, "up", "down") == ((HiddenUnits(("up",), "down"),) if expected else ())


def pivoted(linear: nn.Linear, rank: int = 5) -> PivotedLinear:
    out_features, in_features = linear.weight.shape
    result: PivotedLinear = from_factors(
        PivotedLinear, linear, torch.randn(out_features, rank), torch.randn(rank, in_features)
    )
    return result


def quantized(linear: nn.Linear, scheme: QuantScheme) -> QuantizedLinear:
    layer = QuantizedLinear.empty_like(linear, scheme)
    fill_child(layer, linear.weight.detach().double(), linear.bias)
    return layer


def two_factor(linear: nn.Linear) -> LowRankLinear:
    out_features, in_features = linear.weight.shape
    result: LowRankLinear = from_factors(
        LowRankLinear, linear, torch.randn(out_features, 4), torch.randn(4, in_features)
    )
    return result


@pytest.mark.parametrize("other", ["dense", "two-factor", "8-bit", "4-bit", "pivoted"])
@pytest.mark.parametrize("consumer", ["dense", "two-factor", "8-bit", "4-bit", "pivoted"])
def test_layers_of_every_kind_beside_a_pivoted_one(other: str, consumer: str) -> None:
    kinds = {
        "dense": lambda linear: linear,
        "two-factor": two_factor,
        "8-bit": lambda linear: quantized(linear, QuantScheme(8)),
        "4-bit": lambda linear: quantized(linear, QuantScheme(4, 4)),
        "pivoted": pivoted,
    }
    block = Example(
        lambda block, hidden: hidden + block.down(silu(block.gate(hidden)) * block.up(hidden)),
        gate=nn.Linear(WIDTH, UNITS),
        up=nn.Linear(WIDTH, UNITS),
        down=nn.Linear(UNITS, WIDTH),
    )
    units = found(block, "gate up", "down")
    assert units == (HiddenUnits(("gate", "up"), "down"),)
    block.gate, block.up = kinds[other](block.gate), pivoted(block.up)
    block.down = kinds[consumer](block.down)
    hidden = torch.randn(1, 4, WIDTH)
    with torch.no_grad():
        expected = block(hidden)
        names = put_in_order(block, units).without_index
        torch.testing.assert_close(block(hidden), expected, rtol=1e-4, atol=1e-4)
    leader = "gate" if other == "pivoted" else "up"
    assert names == ([] if consumer == "4-bit" else [leader])
    assert without_index(block) == set(names)


class Routed(nn.Module):
    """Hands a token on only if its first hidden unit is above the others' mean: shuffled, others are handed on."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, UNITS), nn.Linear(UNITS, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        units = self.up(hidden).flatten(0, -2)
        chosen = units[:, 0] > units.mean(dim=1)
        if not chosen.any():
            return hidden
        behind = hidden.flatten(0, -2).clone()
        behind[chosen] += self.down(units[chosen])
        return behind.view_as(hidden)


@pytest.mark.parametrize("seed", range(8))
def test_routing_that_moves_between_two_runs_has_no_units(seed: int) -> None:
    torch.manual_seed(seed)
    block = Routed()
    assert find_hidden_units(block, CALL, torch.randn(1, 5, WIDTH), [["up"], ["down"]]) == ()


def test_where_numbers_overflow_nothing_is_found() -> None:
    torch.manual_seed(0)
    block = Routed()
    with torch.no_grad():
        block.up.weight.mul_(1e38)
    assert find_hidden_units(block, CALL, torch.randn(1, 5, WIDTH) * 1e3, [["up"], ["down"]]) == ()
