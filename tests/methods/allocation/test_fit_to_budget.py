from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods.allocation.helpers import LAYOUT, all_choices, is_allowed, problems, statistics

from eckart.errors import EckartError
from eckart.methods.allocation.base import gain_per_byte, relative_energy
from eckart.methods.allocation.fit_to_budget import fit_to_budget
from eckart.methods.allocation.rank_budget import RankBudget


@settings(max_examples=150)
@given(problems(), st.data())
def test_any_choice_is_brought_within_one_step_of_the_budget(problem: RankBudget, data):
    chosen = {
        linear.path: data.draw(st.one_of(st.none(), st.integers(0, 10)), label=linear.path)
        for linear in problem.linears
    }
    worth = gain_per_byte(problem, problem.losses(relative_energy))
    feasible = [ranks for ranks in all_choices(problem) if problem.bytes(ranks) <= problem.budget]
    if not feasible:
        with pytest.raises(EckartError, match=r"Use --keep"):
            fit_to_budget(problem, chosen, worth)
        return
    ranks = fit_to_budget(problem, chosen, worth)
    assert is_allowed(problem, ranks)
    assert problem.bytes(ranks) <= problem.budget
    # By brute force: nobody could take one step more, alone or with the group that must go along.
    for larger in all_choices(problem):
        steps = {p: _index(problem, p, larger[p]) - _index(problem, p, ranks[p]) for p in ranks}
        moved = [path for path, step in steps.items() if step]
        one_step = all(steps[path] == 1 for path in moved)
        alone = len(moved) == 1
        of_one_group = problem.fused_groups and len({_group(problem, path) for path in moved}) == 1
        if moved and one_step and (alone or (of_one_group and all(larger[path] is None for path in moved))):
            assert problem.bytes(larger) > problem.budget


def _index(problem: RankBudget, path: str, rank: int | None) -> int:
    return [option.rank for option in problem.options[path]].index(rank)


def _group(problem: RankBudget, path: str) -> int:
    return next(linear.group for linear in problem.linears if linear.path == path)


@settings(max_examples=100)
@given(problems(), st.data())
def test_a_choice_within_the_budget_is_only_rounded_down_if_the_budget_is_not_to_be_filled(problem: RankBudget, data):
    """As papers do: no step up, however much room is left."""
    least = {path: options[0].rank for path, options in problem.options.items()}
    if problem.fused_groups or problem.bytes(least) > problem.budget:
        return
    chosen = {linear.path: data.draw(st.integers(0, 10), label=linear.path) for linear in problem.linears}
    worth = gain_per_byte(problem, problem.losses(relative_energy))
    ranks = fit_to_budget(problem, chosen, worth, fill=False)
    assert problem.bytes(ranks) <= problem.budget
    down = {}
    for path, options in problem.options.items():
        factored = [option.rank for option in options if option.rank is not None]
        below = [rank for rank in factored if rank <= chosen[path]]
        beyond = chosen[path] >= (factored[-1] if factored else 0) + problem.multiple
        down[path] = None if beyond or not factored else max(below, default=factored[0])
    if problem.bytes(down) <= problem.budget:
        assert ranks == down
    else:
        assert all(_index(problem, path, ranks[path]) <= _index(problem, path, down[path]) for path in ranks)


def test_a_choice_that_meets_the_budget_stays_as_it_is():
    problem = RankBudget((statistics("a", (64, 64)), statistics("b", (64, 64))), 0.5, LAYOUT)
    chosen = {"a": 8, "b": 24}
    assert problem.bytes(chosen) == problem.budget
    assert fit_to_budget(problem, chosen, lambda *_: 0.0) == chosen


def test_steps_are_taken_where_they_are_worth_most():
    flat = statistics("flat", (64, 64), energy=torch.ones(64, dtype=torch.float64))
    steep = statistics("steep", (64, 64), energy=0.5 ** torch.arange(64, dtype=torch.float64))
    problem = RankBudget((flat, steep), 0.5, LAYOUT)
    worth = gain_per_byte(problem, problem.losses(relative_energy))
    up = fit_to_budget(problem, {"flat": 8, "steep": 8}, worth)
    down = fit_to_budget(problem, {"flat": 24, "steep": 24}, worth)
    assert up == down == {"flat": 24, "steep": 8}


def test_a_group_is_factored_or_dense_as_a_whole():
    linears = tuple(statistics(name, (64, 64), seed=i, group=0) for i, name in enumerate("abc"))
    problem = RankBudget(linears, 0.7, LAYOUT, fused_groups=True)
    ranks = fit_to_budget(problem, {"a": None, "b": 8, "c": 8}, gain_per_byte(problem, problem.losses(relative_energy)))
    assert None not in ranks.values()
    free = RankBudget(linears, 0.7, LAYOUT)
    ranks = fit_to_budget(free, {"a": None, "b": 8, "c": 8}, gain_per_byte(free, free.losses(relative_energy)))
    assert ranks["a"] is None


def test_a_floor_above_the_budget_is_an_error_that_says_what_to_do():
    problem = RankBudget((statistics("a", (64, 64)),), 0.3, LAYOUT, floor=0.9)
    with pytest.raises(EckartError, match=r"Use --keep 1 or more, or lower allocation\.floor"):
        fit_to_budget(problem, {"a": 8}, lambda *_: 0.0)
