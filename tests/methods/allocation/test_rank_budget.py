"""Options, bytes and losses, by counting."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.methods.allocation.helpers import LAYOUT, all_choices, is_allowed, problems, statistics

from eckart.errors import EckartError
from eckart.methods.allocation.base import relative_energy
from eckart.methods.allocation.rank_budget import Option, RankBudget
from eckart.methods.layout import Layout
from eckart.methods.precision import Bits4
from eckart.methods.structure import Pivoted


@given(problems())
def test_options_are_all_ranks_that_save_something(problem: RankBudget) -> None:
    for linear in problem.linears:
        m, n = linear.shape
        options = problem.options[linear.path]
        sizes = [option.bytes for option in options]
        assert sizes == sorted(sizes)
        assert options[-1] == Option(None, problem.layout.bytes(m, n, None))
        alone = replace(problem, linears=(linear,), fused_groups=False)
        ranks = [rank for rank in range(1, min(m, n) + 1) if is_allowed(alone, {linear.path: rank})]
        assert [option.rank for option in options[:-1]] == ranks
        assert problem.largest_rank(linear) >= max(ranks, default=0)


@given(st.integers(1, 99), st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=4))
def test_the_budget_is_exact(percent: int, shapes: list[tuple[int, int]]) -> None:
    """Not a byte short where the share, which is no binary number, times the bytes is a whole number."""
    problem = RankBudget(tuple(statistics(str(i), shape) for i, shape in enumerate(shapes)), percent / 100, LAYOUT)
    numbers = sum(m * n for m, n in shapes)
    assert problem.dense_bytes == 2 * numbers
    assert problem.budget == Fraction(percent, 100) * 2 * numbers // 1


@given(problems())
def test_losses_are_those_of_the_components_that_an_option_lacks(problem: RankBudget) -> None:
    losses = problem.losses(relative_energy)
    for linear in problem.linears:
        curve = relative_energy(linear).tolist()
        for option, loss in zip(problem.options[linear.path], losses[linear.path], strict=True):
            assert loss == pytest.approx(0.0 if option.rank is None else sum(curve[option.rank :]), abs=1e-15)


def test_small_losses_are_not_lost_beside_large_ones() -> None:
    energy = torch.tensor([1e20, 1.0, 1e-9, 0.0], dtype=torch.float64)
    problem = RankBudget((statistics("x", (12, 4), energy=energy),), 0.5, LAYOUT, multiple=1)
    assert problem.losses(lambda linear: energy)["x"][1:] == [pytest.approx(1e-9), 0.0]


@given(problems())
def test_bytes_are_the_sum_over_linears(problem: RankBudget) -> None:
    for ranks in all_choices(problem)[:20]:
        each = [option.bytes for path, rank in ranks.items() for option in problem.options[path] if option.rank == rank]
        assert problem.bytes(ranks) == sum(each)
        costs = [problem.cost(linear, ranks[linear.path]) for linear in problem.linears]
        assert costs == each


def test_a_rank_that_cannot_be_laid_out_costs_the_weight_itself() -> None:
    problem = RankBudget((statistics("x", (8, 8)),), 0.5, Layout(Pivoted(), Bits4(group=None)), multiple=1)
    whole = 8 * 4 + 2 * 8
    assert [problem.cost(problem.linears[0], rank) for rank in (7, 8, 9, None)] == [whole] * 4
    assert problem.cost(problem.linears[0], 1) == 4 + 2 + 7 * 1 + 2 * 7 + 2 * 8


def test_a_bias_that_was_there_before_costs_nothing() -> None:
    layout = Layout(affine=True)
    with_bias, without = (statistics(str(has), (32, 32), has_bias=has) for has in (True, False))
    problem = RankBudget((with_bias, without), 0.5, layout, multiple=1)
    assert problem.cost(with_bias, 3) == 2 * 3 * 64
    assert problem.cost(without, 3) == 2 * 3 * 64 + 2 * 32
    assert problem.bytes({"True": 3, "False": None}) == 2 * 3 * 64 + 2 * 32 * 32


def test_groups_are_those_that_share_an_input_if_they_must_be_of_one_kind() -> None:
    linears = tuple(statistics(name, (8, 8), group=group) for name, group in (("q", 0), ("k", 0), ("o", 1)))
    assert RankBudget(linears, 0.5, LAYOUT).groups == {"q": ["q"], "k": ["k"], "o": ["o"]}
    fused = RankBudget(linears, 0.5, LAYOUT, fused_groups=True)
    assert fused.groups == {"q": ["q", "k"], "k": ["q", "k"], "o": ["o"]}


@given(problems())
def test_what_cannot_be_met_is_said_with_what_would_be(problem: RankBudget) -> None:
    least = min(problem.bytes(ranks) for ranks in all_choices(replace(problem, fused_groups=False)))
    if least <= problem.budget:
        problem.check()
        return
    with pytest.raises(EckartError, match=f"smallest ranks allowed take {least:,} ") as error:
        problem.check()
    needed = float(str(error.value).split("--keep ")[1].split()[0])
    assert needed > problem.keep
    replace(problem, keep=needed).check()
    assert needed - 0.001 <= least / problem.dense_bytes
