"""Exact dynamic programming, against brute force and against a solver of integer programmes."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods.allocation.helpers import LAYOUT, LINEARS, all_choices, problems, statistics

from eckart.errors import EckartError
from eckart.methods.allocation import exact
from eckart.methods.allocation.exact import best_ranks, finite_losses
from eckart.methods.allocation.hull import fill_by_hull
from eckart.methods.allocation.rank_budget import RankBudget, Ranks

Losses = dict[str, list[float]]


def random_losses(problem: RankBudget, seed: int, *, infinite: bool = False) -> Losses:
    """Neither falling nor positive, so that no hull helps."""
    generator = torch.Generator().manual_seed(seed)
    found = {path: torch.randn(len(o), generator=generator).double().tolist() for path, o in problem.options.items()}
    if infinite:
        for row in found.values():
            row[:-1] = [math.inf if value > 0.5 else value for value in row[:-1]]
    return found


def lost(problem: RankBudget, losses: Losses, ranks: Ranks) -> float:
    options = {path: [option.rank for option in row] for path, row in problem.options.items()}
    return sum(losses[path][options[path].index(rank)] for path, rank in ranks.items())


@settings(max_examples=80, deadline=None)
@given(problem=problems(), seed=st.integers(0, 10**6), infinite=st.booleans())
def test_nothing_within_the_budget_loses_less(problem: RankBudget, seed: int, infinite: bool) -> None:
    losses = random_losses(problem, seed, infinite=infinite)
    fitting = [ranks for ranks in all_choices(problem) if problem.bytes(ranks) <= problem.budget]
    if not fitting:
        with pytest.raises(EckartError):
            best_ranks(problem, losses)
        return
    found = best_ranks(problem, losses)
    assert found in fitting
    least = min(lost(problem, losses, ranks) for ranks in fitting)
    assert lost(problem, losses, found) == pytest.approx(least) or least == math.inf


def by_integer_programme(problem: RankBudget, losses: Losses) -> float:
    """The published way: one binary number an option, solved to the last by branch and cut."""
    optimize: Any = pytest.importorskip("scipy.optimize")
    rows = [(path, n) for path, options in problem.options.items() for n in range(len(options))]
    one_each = [[float(path == other) for path, _ in rows] for other in problem.options]
    sizes = [float(problem.options[path][n].bytes) for path, n in rows]
    found = optimize.milp(
        [losses[path][n] for path, n in rows],
        integrality=numpy.ones(len(rows)),
        bounds=optimize.Bounds(0, 1),
        constraints=[
            optimize.LinearConstraint(one_each, 1, 1),
            optimize.LinearConstraint([sizes], 0, problem.budget),
        ],
        options={"mip_rel_gap": 0},
    )
    return float(found.fun)


@pytest.mark.parametrize("keep", [0.4, 0.6, 0.83])
def test_it_equals_an_integer_programme(keep: float) -> None:
    problem = RankBudget(LINEARS, keep, LAYOUT, multiple=4)
    for seed in range(3):
        losses = random_losses(problem, seed)
        found = best_ranks(problem, losses)
        assert problem.bytes(found) <= problem.budget
        assert lost(problem, losses, found) == pytest.approx(by_integer_programme(problem, losses), abs=1e-6)


def test_it_beats_the_hull_where_the_best_choice_is_on_none() -> None:
    """The steepest step takes the bytes that a jump to dense would have needed, which saves more altogether."""
    linears = tuple(statistics(name, (64, 64)) for name in "ab")
    problem = RankBudget(linears, 0.625, LAYOUT, multiple=8)
    losses = {"a": [4.0, 4.0, 4.0, 0.0], "b": [4.0, 2.6, 1.6, 0.8]}
    assert best_ranks(problem, losses) == {"a": None, "b": 8}
    assert lost(problem, losses, best_ranks(problem, losses)) < lost(problem, losses, fill_by_hull(problem, losses))


def test_what_breaks_the_model_is_taken_only_where_nothing_else_fits() -> None:
    linears = tuple(statistics(name, (64, 64)) for name in "ab")
    losses = {"a": [math.inf] * 3 + [0.0], "b": [9.0, 8.0, 7.0, 0.0]}
    assert best_ranks(RankBudget(linears, 0.7, LAYOUT), losses) == {"a": None, "b": 8}
    assert None not in best_ranks(RankBudget(linears, 0.4, LAYOUT), losses).values()
    assert finite_losses({"a": [math.inf, 0.0]}) == {"a": [1.0, 0.0]}
    assert finite_losses({"a": [math.inf, -2.0], "b": [3.0]}) == {"a": [50.0, -2.0], "b": [3.0]}


def test_a_budget_that_cannot_be_met_is_refused() -> None:
    problem = RankBudget(LINEARS, 0.01, LAYOUT)
    with pytest.raises(EckartError, match="smallest ranks allowed take"):
        best_ranks(problem, random_losses(problem, 0))


def test_few_states_still_meet_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = RankBudget(LINEARS, 0.6, LAYOUT, multiple=1)
    losses = random_losses(problem, 1)
    best = lost(problem, losses, best_ranks(problem, losses))
    monkeypatch.setattr(exact, "STATES", 5)
    found = best_ranks(problem, losses)
    assert problem.bytes(found) <= problem.budget
    assert lost(problem, losses, found) >= best
