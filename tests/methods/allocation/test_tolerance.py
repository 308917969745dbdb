"""One relative error for all weights, against the rule written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.methods.allocation.helpers import LAYOUT, LINEARS, OWN
from tests.methods.sensitivity.helpers import original_of

from eckart.layers import weight_matrix
from eckart.methods.allocation import Budgets, LayerStatistics, Tolerance, Wanted
from eckart.methods.allocation.rank_budget import RankBudget
from eckart.methods.allocation.tolerance import relative_errors, spectral_errors
from eckart.methods.layout import Layout
from eckart.methods.objectives import Weight
from eckart.methods.recipe import Recipe
from eckart.methods.sensitivity.layer_statistics import shapes_of
from eckart.methods.sensitivity.measurements import Measurements
from eckart.methods.sensitivity.request import Request
from eckart.methods.structure import Dictionary
from eckart.methods.targets import Size

KNOWN = OWN[Tolerance]


def published_rank(linear: LayerStatistics, tolerance: float) -> int:
    return max(next(r for r, error in enumerate(linear.own.tolist()) if error <= tolerance), 1)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
def test_no_smaller_tolerance_meets_the_budget(keep: float) -> None:
    """By trying all tolerances, from the largest one down."""
    problem = RankBudget(KNOWN, keep, LAYOUT, multiple=1)
    expected = None
    for tolerance in sorted({float(e) for linear in KNOWN for e in linear.own}, reverse=True):
        ranks = {linear.path: published_rank(linear, tolerance) for linear in KNOWN}
        if sum(problem.cost(linear, ranks[linear.path]) for linear in KNOWN) > problem.budget:
            break
        expected = ranks
    assert Tolerance().choose(problem) == expected
    assert expected is not None
    found = expected
    # All errors are within one step of the largest one.
    largest = max(float(linear.own[found[linear.path]]) for linear in KNOWN)
    assert all(float(linear.own[found[linear.path] - 1]) > largest or found[linear.path] == 1 for linear in KNOWN)


def test_flat_spectra_get_more_than_steep_ones() -> None:
    """Of values i^-1/2 and i^-2 of 100: at 0.5 the tail of 1/i is a quarter of 5.187 behind 27, of i^-4 behind 1."""
    index = torch.arange(1, 101, dtype=torch.float64)
    flat, steep = (
        LayerStatistics(name, (100, 100), 0, name, own=relative_errors(index**power))
        for name, power in (("flat", -0.5), ("steep", -2.0))
    )
    problem = RankBudget((flat, steep), 0.5, LAYOUT, multiple=1)
    assert Tolerance().ranks_of(problem, 0.5) == {"flat": 27, "steep": 1}
    ranks = Tolerance().choose(problem)
    flat_rank, steep_rank = ranks["flat"] or 0, ranks["steep"] or 0
    assert flat_rank > 5 * steep_rank > 0


def test_towers_with_sizes_of_their_own_have_a_tolerance_each() -> None:
    own = {linear.path: Size("towers.x", 0.4) for linear in KNOWN[:3]}
    tolerance = Tolerance(multiple=1, fill_budget=False)
    found = tolerance.ranks_within(KNOWN, Budgets(0.8, own), LAYOUT)
    alone = tolerance.ranks(KNOWN[:3], 0.4, LAYOUT) | tolerance.ranks(KNOWN[3:], 0.8, LAYOUT)
    assert found == alone


def test_the_largest_error_falls_first() -> None:
    worth = Tolerance().worth(RankBudget(KNOWN, 0.5, LAYOUT, multiple=1))
    assert worth(KNOWN[0].path, 4, 5) == float(KNOWN[0].own[5])  # option 4 is rank 5
    last = len(RankBudget(KNOWN, 0.5, LAYOUT, multiple=1).options[KNOWN[0].path]) - 1
    assert worth(KNOWN[0].path, last, last) == 0


def test_errors_are_those_of_the_weights_and_no_token_is_looked_at(llama, tokens):
    original = replace(original_of(llama, tokens), calibration=None)
    recipe = Recipe(objective=Weight(), allocation=Tolerance())
    assert not recipe.needs_data
    measured = Measurements(shapes_of(original.blocks))
    wanted = Wanted(Budgets(0.6), LAYOUT, Request(Weight()))
    found = {x.path: x.own for x in Tolerance().measure(original, measured, wanted).linears}
    path = "model.layers.1.mlp.down_proj"
    weight = weight_matrix(llama.get_submodule(path)).detach().double()
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    for rank in (0, 1, 7, len(values)):
        error = (weight - left[:, :rank] * values[:rank] @ right[:rank]).norm() / weight.norm()
        torch.testing.assert_close(found[path][rank], error, atol=1e-9, rtol=1e-6)


def test_a_weight_of_zeros_has_no_error() -> None:
    assert relative_errors(torch.zeros(3, dtype=torch.float64)).tolist() == [0, 0, 0, 0]
    still = replace(LINEARS[0], own=relative_errors(torch.zeros(64, dtype=torch.float64)))
    assert Tolerance().ranks_of(RankBudget((still,), 0.5, LAYOUT), 0.0) == {still.path: 1}


def pooled_ranks(values: dict[str, torch.Tensor], kept: int) -> dict[str, int]:
    """How many of each matrix are among the largest of all values over the norms, by a literal sort."""
    pool = sorted(((float(v / s.norm()), path) for path, s in values.items() for v in s), reverse=True)
    return {path: [owner for _, owner in pool[:kept]].count(path) for path in values}


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("layout", [LAYOUT, Layout(Dictionary())], ids=["factors", "dictionary"])
def test_the_spectral_norm_cuts_a_pool_of_singular_values(keep: float, layout: Layout) -> None:
    values = {x.path: x.energy.sqrt() for x in LINEARS if x.energy is not None}
    linears = tuple(replace(x, own=spectral_errors(values[x.path])) for x in LINEARS)
    problem = RankBudget(linears, keep, layout, multiple=1)

    def total(ranks: dict[str, int]) -> int:
        return sum(problem.cost(linear, ranks[linear.path]) for linear in linears)

    for kept in reversed(range(sum(map(len, values.values())))):
        expected = {path: max(rank, 1) for path, rank in pooled_ranks(values, kept).items()}
        if total(expected) <= problem.budget:
            break
    assert Tolerance(norm="spectral").choose(problem) == expected
    assert len(set(expected.values())) > 2


def test_guards_hold_ranks_between_two_shares_of_the_largest_useful_one() -> None:
    """Of 100 x 100 that is 49: 0.1 and 0.5 of it are 5 and 24."""
    index = torch.arange(1, 101, dtype=torch.float64)
    linears = tuple(
        LayerStatistics(name, (100, 100), 0, name, own=spectral_errors(index**power))
        for name, power in (("flat", 0.0), ("steep", -3.0))
    )
    guarded = Tolerance(norm="spectral", floor=0.1, most=0.5, multiple=1)
    problem = guarded.problem(linears, 0.35, LAYOUT)
    assert problem.largest_rank(linears[0]) == 49
    assert guarded.choose(problem) == {"flat": 24, "steep": 11}  # 2 (24 + 11) of 200 numbers are 0.35 of 2 x 100 x 100
    free = Tolerance(norm="spectral").choose(RankBudget(linears, 0.35, LAYOUT, multiple=1))
    assert free["flat"] != 24
    tight = guarded.problem(linears, 0.06, LAYOUT)
    assert guarded.choose(tight) == {"flat": 5, "steep": 5}  # no cut meets it: the smallest ranks
    # Where the budget is to be filled, what is beyond a guard is taken last.
    assert guarded.ranks(linears, 0.45, LAYOUT) == {"flat": 24, "steep": 21}
    assert guarded.ranks(linears, 0.49, LAYOUT) == {"flat": 25, "steep": 24}


def test_a_floor_above_the_most_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found 0\.8 above 0\.3"):
        Tolerance(norm="spectral", floor=0.8, most=0.3)
    assert Tolerance(floor=0.3, most=0.3).most == 0.3
