"""Predicted curves, scaled to what was measured at one rank."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.methods.allocation.helpers import LAYOUT, LINEARS, statistics
from tests.methods.sensitivity.helpers import original_of

from eckart.methods.allocation import Budgets, Needs, Wanted
from eckart.methods.allocation.rank_budget import RankBudget
from eckart.methods.allocation.reference_trials import (
    break_even_rank,
    reference_divergences,
    reference_rank,
    scaled_losses,
)
from eckart.methods.allocation.trials import trial_divergences
from eckart.methods.layout import Layout
from eckart.methods.objectives import InputAware
from eckart.methods.sensitivity.layer_statistics import LayerStatistics
from eckart.methods.sensitivity.measure import measure
from eckart.methods.sensitivity.request import Request
from eckart.methods.structure import Pivoted
from eckart.methods.targets import Size


def energy_of(linear: LayerStatistics) -> torch.Tensor:
    assert linear.energy is not None
    return linear.energy


def curvature_of(linear: LayerStatistics) -> torch.Tensor:
    assert linear.curvature is not None
    return linear.curvature


@pytest.mark.parametrize(("shape", "expected"), [((40, 40), 20), ((64, 64), 32), ((24, 64), 17), ((1, 1), 0)])
def test_factors_of_the_break_even_rank_take_no_more_than_the_weight(shape: tuple[int, int], expected: int) -> None:
    linear = LayerStatistics("x", shape, 0, "x")
    assert break_even_rank(linear, LAYOUT) == expected == math.prod(shape) // sum(shape)
    assert reference_rank(linear, LAYOUT, 0.1) == max(1, expected // 10)


def test_other_layouts_break_even_elsewhere() -> None:
    """40 x 40 as pivots: 39 rows, one of coefficients and an index of 40 two-byte numbers are 1639 numbers."""
    linear, layout = LayerStatistics("x", (40, 40), 0, "x"), Layout(Pivoted())
    rank = break_even_rank(linear, layout)
    assert layout.bytes(40, 40, rank) <= layout.bytes(40, 40, None) < layout.bytes(40, 40, rank + 1)


def test_a_curve_goes_through_what_was_measured() -> None:
    """The published example: S = (4, 2, 2, 1) of 40 x 40, so that 2 of 20 is the reference rank."""
    energy = torch.tensor([4.0, 2, 2, 1, *[0] * 36], dtype=torch.float64).square()
    linear = statistics("x", (40, 40), energy=energy / energy.sum())
    problem = RankBudget((linear,), 0.9, LAYOUT, multiple=1)
    found = scaled_losses(problem, energy_of, lambda _: 7.0, 0.1, 1e-6)["x"]
    assert found[:4] == pytest.approx([7 * 0.36 / 0.2, 7, 7 * 0.04 / 0.2, 0])
    assert found[-1] == 0
    assert len(found) == 20  # ranks 1 to 19, and dense


def test_where_the_model_breaks_all_factors_do_and_dense_does_not() -> None:
    problem = RankBudget(LINEARS[:1], 0.9, LAYOUT)
    found = scaled_losses(problem, energy_of, lambda _: math.inf, 0.1)[LINEARS[0].path]
    assert set(found[:-1]) == {math.inf}
    assert found[-1] == 0


def test_where_nothing_is_predicted_the_energies_say_how_much_is_left() -> None:
    """As where no gradient reaches a linear, and yet it was measured to matter."""
    linear = replace(LINEARS[0], curvature=torch.zeros(64, dtype=torch.float64))
    problem = RankBudget((linear,), 0.9, LAYOUT, multiple=1)
    found = scaled_losses(problem, curvature_of, lambda _: 2.0, 0.1)
    expected = scaled_losses(problem, energy_of, lambda _: 2.0, 0.1)
    assert found[linear.path] == pytest.approx(expected[linear.path])
    assert found[linear.path][2] == pytest.approx(2)  # at rank 3 of 32
    still = replace(linear, energy=torch.zeros(64, dtype=torch.float64))
    problem = RankBudget((still,), 0.9, LAYOUT)
    assert set(scaled_losses(problem, curvature_of, lambda _: 2.0, 0.1)[linear.path]) == {0.0}


def test_one_trial_a_linear_is_measured_where_a_rank_is_to_be_chosen(llama, tokens):
    original = original_of(llama, tokens).cropped(3, 12)
    request = Request(InputAware(), Needs.SPECTRUM, keep_bases=True)
    measured = measure(original, request, lambda *_: None)
    fixed = measured.linears[0].path
    wanted = Wanted(Budgets(0.6, {fixed: Size("x", None, 3)}), LAYOUT, request)
    found = reference_divergences(original, measured, wanted, 0.3, temperature=0.6, first=2)
    assert found.keys() == {linear.path for linear in measured.linears[1:]}
    path = measured.linears[5].path
    rank = reference_rank(measured.linears[5], LAYOUT, 0.3)
    alone = trial_divergences(
        original, measured.solutions, {path: [rank]}, lambda *_: None, temperature=0.6, first=2
    ).trials
    assert found[path] == pytest.approx(alone[path][rank], rel=1e-5)
