"""Recipes whose components have an order, and what each component is worth."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import make_model
from torch.nn import Linear

import eckart
from eckart.compression.nested import _energies, check_nested
from eckart.compression.records import thin_spectrum
from eckart.errors import EckartWarning, RecipeError
from eckart.layers import LowRankLinear
from eckart.maths.nested import ENERGY, NATS


@pytest.mark.parametrize(
    ("recipe", "overrides", "reason"),
    [
        ("svd-llm", ["structure=pivoted"], "structure 'pivoted'"),
        ("modegpt", [], "pairs=narrow, which factors nothing"),
        ("svd-llm", ["structure=hybrid"], "structure 'hybrid'"),
        ("svd-llm", ["precision=8-bit"], "make up for what the others lose"),
        ("svd-llm", ["objective.affine=true"], "make up for what the others lose"),
        ("svd-llm", ["preparation=block"], "preparation 'block', which draws"),
        ("svd-llm", ["refinement=block"], "a refinement, which trains"),
        ("svd-llm", ["distillation=logits"], "a distillation, which trains"),
        ("svd-llm", ["sharing=experts"], "sharing 'experts'"),
        ("svd-llm", ["sharing=by-loss"], "sharing 'by-loss'"),
        ("svd-llm", ["solver=randomized"], "solver 'randomized'"),
        ("saes-svd", [], "objective 'blended', whose target"),
        ("dobi-svd", [], "objective 'principal-outputs'"),
        ("zs-svd-staged", [], "allocation 'zero-sum'"),
    ],
)
def test_what_has_no_order_is_refused(recipe: str, overrides: list[str], reason: str, tokens: torch.Tensor) -> None:
    with pytest.raises(RecipeError, match=reason):
        check_nested(eckart.load_recipe(recipe, overrides))
    model = make_model("llama")
    with pytest.raises(RecipeError, match="compress to each size"):
        eckart.compress(model, recipe, 0.6, tokens, overrides=overrides, nested=True)
    assert not any(isinstance(module, LowRankLinear) for module in model.modules())


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("svd", []),
        ("svd-llm", ["sharing=shared"]),
        ("aa-svd-layer", ["structure.split=singular-values"]),
        ("saes-svd", ["objective.beta_max=0.25"]),
        ("zs-svd", []),
        ("io-svd", []),
        ("eckart-fast", ["structure=two-factor"]),
    ],
)
def test_what_has_one(recipe: str, overrides: list[str]) -> None:
    check_nested(eckart.load_recipe(recipe, overrides))


def test_losses_by_curvature_are_those_that_the_allocation_predicts(tokens: torch.Tensor) -> None:
    overrides = ["allocation=curvature", "allocation.multiple=1", "allocation.floor=0.5"]
    report = eckart.compress(make_model("llama"), "svd-llm", 0.7, tokens, overrides=overrides, nested=True)
    assert report.nested is not None
    assert report.nested.unit == NATS
    assert report.nested.ranks == report.ranks
    assert report.nested.keep == pytest.approx(report.keep)
    assert report.nested.lost > 0
    assert all((losses >= 0).all() for losses in report.nested.losses.values())
    dense = {layer.path: layer for layer in report.layers if layer.rank is None}
    assert report.nested.unfactored_bytes == sum(layer.bytes for layer in dense.values())


@pytest.mark.parametrize("allocation", ["uniform", "energy"])
def test_losses_without_curvature_are_shares_of_the_energy(allocation: str, tokens: torch.Tensor) -> None:
    overrides = [f"allocation={allocation}", "allocation.multiple=1"]
    model = make_model("llama")
    weights = {name: m.weight.detach().double() for name, m in model.named_modules() if isinstance(m, Linear)}
    report = eckart.compress(model, "svd", 0.6, tokens, overrides=overrides, nested=True)
    assert report.nested is not None
    assert report.nested.unit == ENERGY
    lost = 0.0
    for path, losses in report.nested.losses.items():
        values = torch.linalg.svdvals(weights[path]).square()
        expected = values / values.sum()
        torch.testing.assert_close(losses.double(), expected[: len(losses)], rtol=1e-4, atol=1e-7)
        lost += float(expected[len(losses) :].sum())
    assert report.nested.lost == pytest.approx(lost, rel=1e-4)


def test_a_model_that_stays_dense_has_no_order(tokens: torch.Tensor) -> None:
    with pytest.warns(EckartWarning, match="Nothing is factored"):
        assert eckart.compress(make_model("llama"), "svd", 1.0, tokens, nested=True).nested is None


@pytest.mark.parametrize("count", [1, 2, 100, 700])
def test_energies_between_the_points_of_a_spectrum(count: int) -> None:
    values = torch.linspace(3, 1, count, dtype=torch.float64)  # on which straight lines are exact
    found = _energies(thin_spectrum(values, max(1, count // 2)))
    torch.testing.assert_close(found, values.square() / values.square().sum(), rtol=1e-5, atol=0)


def test_energies_of_a_layer_that_is_all_zero() -> None:
    assert not _energies(thin_spectrum(torch.zeros(4, dtype=torch.float64), 2)).any()
