"""Precisions and ranks layer by layer, against all choices tried out and against what real layers then lose."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.conftest import make_model
from transformers import PreTrainedModel

import eckart
from eckart.errors import EckartError, RecipeError
from eckart.methods.allocation import Budgets, Formats
from eckart.methods.allocation.formats import Stored, best_within
from eckart.methods.precision import Bits2, Bits3, Bits4, Bits8
from eckart.methods.recipes.loader import load_recipe
from eckart.methods.sensitivity.layer_statistics import LayerStatistics
from eckart.methods.structure import Hybrid
from eckart.methods.targets import Size

FEW = (Bits8(group=16), Bits4(group=16), Bits3(group=16), Bits2(group=16))
BASES = ["8-bit", "4-bit", "3-bit", "2-bit"]
SMALL = ["allocation.multiple=1", f"allocation.bases={[base.model_dump() for base in FEW]}"]
LAYOUT = load_recipe("auto").layout


def linear(path: str, shape: tuple[int, int], size: float) -> LayerStatistics:
    """One whose loss falls by four with each bit, and slowly with the rank."""
    losses = [[size * 4.0**-base.bits * 0.8**rank for rank in range(6)] for base in Formats().bases]
    return LayerStatistics(path, shape, 0, path, own=losses)


LINEARS = (linear("a", (256, 512), 1e3), linear("b", (512, 256), 3e4), linear("c", (256, 256), 10.0))


@given(budget=st.integers(60, 400), seed=st.integers(0, 1000))
def test_what_is_chosen_is_on_the_hull_of_all_choices(budget: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ways = {}
    for path in "abc":
        sizes = sorted(torch.randint(10, 130, (4,), generator=generator).tolist())
        losses = torch.rand(4, generator=generator).tolist()
        ways[path] = [Stored(Bits4(), n, s, x) for n, (s, x) in enumerate(zip(sizes, losses, strict=True))]
    least = sum(min(way.bytes for way in known) for known in ways.values())
    if least > budget:
        return
    chosen = best_within(ways, budget).values()
    size, loss = sum(way.bytes for way in chosen), sum(way.loss for way in chosen)
    assert size <= budget
    # Nothing loses less at no more bytes than what was chosen takes, unless it lies between two segments of a hull.
    every = [(sum(w.bytes for w in c), sum(w.loss for w in c)) for c in itertools.product(*ways.values())]
    best = min(found for bytes_, found in every if bytes_ <= budget)
    steps = [abs(one.loss - other.loss) for known in ways.values() for one, other in itertools.combinations(known, 2)]
    assert loss <= best + max(steps) + 1e-12


def test_the_sensitive_layer_gets_more_bits_and_the_budget_is_kept() -> None:
    formats = Formats()
    for keep in (0.15, 0.2, 0.25, 0.3, 0.45, 0.6):
        found = formats.storage_within(LINEARS, Budgets(keep), LAYOUT)
        taken = sum(LAYOUT.based_on(found.bases[x.path]).bytes(*x.shape, found.ranks[x.path]) for x in LINEARS)
        assert taken <= keep * sum(x.dense_bytes for x in LINEARS)
        bits = [found.bases[path].scheme.bits for path in "bac"]  # type: ignore[union-attr]
        assert bits == sorted(bits, reverse=True)
    assert set(formats.storage_within(LINEARS, Budgets(1.0), LAYOUT).bases.values()) == {Bits8()}
    assert all(rank is None or rank % 8 == 0 for rank in found.ranks.values())


def test_bytes_that_would_bring_next_to_nothing_are_left() -> None:
    small = tuple(replace(x, own=[[loss * 1e-8 for loss in losses] for losses in x.own]) for x in LINEARS)
    assert set(Formats().storage_within(small, Budgets(1.0), LAYOUT).bases.values()) == {Bits2()}


def test_before_anything_is_measured_all_get_the_same_share() -> None:
    found = Formats().unmeasured(LINEARS, Budgets(0.3), LAYOUT)
    assert set(found.bases.values()) == {Bits4(group=64)}
    assert set(found.ranks.values()) == {None}
    own = Budgets(0.3, {"b": Size("targets.b.keep", keep=0.15), "c": Size("targets.c.rank", None, rank=8)})
    found = Formats().unmeasured(LINEARS, own, LAYOUT)
    assert (found.bases["b"], found.ranks["c"]) == (Bits2(), 8)
    assert "c" not in found.bases


def test_a_layer_of_which_nothing_is_known_gets_its_share() -> None:
    unknown = LayerStatistics("d", (256, 256), 0, "d")
    found = Formats().storage_within((*LINEARS, unknown), Budgets(0.3), LAYOUT)
    assert (found.bases["d"], found.ranks["d"]) == (Bits4(group=64), None)
    assert found.outlook is not None
    assert 0 < found.outlook.loss_at_more < found.outlook.loss


def test_a_layer_that_no_gradient_reaches_is_unknown(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    with torch.no_grad():
        llama.model.layers[1].mlp.down_proj.weight.zero_()  # nor does any come to what is in front of it
    report = eckart.compress(llama, "auto", 0.33, tokens, overrides=SMALL)
    found = {layer.path: layer.base for layer in report.layers}
    assert found["model.layers.1.mlp.up_proj"] == found["model.layers.1.mlp.gate_proj"] == FEW[1]
    assert report.keep <= 0.33


def test_less_than_all_layers_in_the_fewest_bits_is_refused() -> None:
    with pytest.raises(
        EckartError, match=r"keep 0\.1 allows 65,536 bytes, but all layers in 2-bit take 92,160 .*--keep 0\.141"
    ):
        Formats().unmeasured(LINEARS, Budgets(0.1), LAYOUT)
    with pytest.raises(EckartError, match=r"all layers in 8-bit take .*--keep 0\.50"):
        Formats(bases=(Bits8(),)).storage_within(LINEARS, Budgets(0.4), LAYOUT)


def test_fields_that_cannot_be() -> None:
    wrong: dict[str, Any]
    for wrong in (
        {"floor": 0.5},
        {"fused_groups": True},
        {"fill_budget": False},
        {"bases": []},
        {"bases": ["16-bit"]},
        {"bases": ["2-of-4"]},
    ):
        with pytest.raises(ValidationError):
            Formats.model_validate(wrong)
    assert Formats.model_validate({"bases": ["3-bit"]}).bases == (Bits3(),)
    with pytest.raises(
        RecipeError, match=r"\AUnknown element of bases '9-bit' after --set; did you mean '8-bit'[^\n]*\Z"
    ):
        load_recipe("auto", ["allocation.bases=[9-bit]"])
    with pytest.raises(RecipeError, match=r"chooses a base for each layer.*structure=hybrid"):
        load_recipe("svd-llm", ["allocation=formats"])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_model_gets_several_precisions_and_loses_less_than_with_one(kind: str, tokens: torch.Tensor) -> None:
    def divergence(keep: float, bases: list[Any]) -> tuple[float, eckart.CompressionResult]:
        model = make_model(kind)
        with torch.no_grad():  # some layers matter more than others
            for number, parameter in enumerate(model.parameters()):
                parameter.mul_(1 + number % 3)
            expected = model(tokens).logits.log_softmax(-1)
            settings = ["allocation.multiple=1", f"allocation.bases={bases}"]
            report = eckart.compress(model, "auto", keep, tokens, overrides=settings)
            found = model(tokens).logits.log_softmax(-1)
        return float((expected.exp() * (expected - found)).sum(-1).mean()), report

    every = [base.model_dump() for base in FEW]
    mixed, report = divergence(0.27, every)
    assert report.keep <= 0.27
    assert len({layer.base.name for layer in report.layers if layer.base}) >= 2
    alone, one = divergence(0.27, [every[2]])
    assert {layer.base for layer in one.layers} == {FEW[2]}
    assert mixed < alone


def test_what_is_predicted_is_near_what_is_lost(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    """The sum of the predictions, against the divergence from the original model's predictions."""
    with torch.no_grad():
        expected = llama(tokens).logits.log_softmax(-1)
    eckart.compress(llama, "auto", 0.6, tokens, overrides=SMALL)
    with torch.no_grad():
        found = llama(tokens).logits.log_softmax(-1)
    assert float((expected.exp() * (expected - found)).sum(-1).mean()) < 1e-3


def test_a_hybrid_takes_any_base() -> None:
    based = LAYOUT.based_on(Bits2())
    assert isinstance(based.structure, Hybrid)
    assert based.structure.base == based.unfactored_precision == Bits2()
    assert based.bytes(256, 512, None) == Bits2().bytes(256, 512)
    assert based.bytes(256, 512, 8) == Bits2().bytes(256, 512) + Bits8().bytes(8, 512) + Bits8().bytes(256, 8)
    assert math.isclose(based.bytes(256, 512, None) / (2 * 256 * 512), 2.25 / 16)


def test_without_factors_no_layer_has_a_rank_and_no_other_rank_is_predicted(tokens: torch.Tensor) -> None:
    alone = Formats(factors=False)
    ways = alone.ways(replace(LINEARS[0], own=[[loss] for loss, *_ in LINEARS[0].own]), LAYOUT)
    assert [way.rank for way in ways] == [None] * len(alone.bases)
    with_factors = Formats().ways(LINEARS[0], LAYOUT)
    assert ways == [way for way in with_factors if way.rank is None]
    model = make_model("llama")
    report = eckart.compress(model, "auto-speed", 0.4, tokens)
    assert {layer.rank for layer in report.layers} == {None}
    assert {layer.base.name for layer in report.layers if layer.base} <= {"8-bit", "4-bit"}
