"""What is chosen behind the training of masks, against all choices."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from tests.methods.allocation.helpers import LAYOUT, LINEARS, statistics
from tests.methods.sensitivity.helpers import original_of

from eckart.methods.allocation import Budgets, Masks, Wanted
from eckart.methods.allocation.mask_training import train_masks
from eckart.methods.allocation.masks import Trained
from eckart.methods.allocation.rank_budget import RankBudget
from eckart.methods.allocation.trials import trial_divergences
from eckart.methods.objectives import InputAware
from eckart.methods.sensitivity.measure import measure
from eckart.methods.sensitivity.request import Request


def test_each_takes_its_trained_rank_the_largest_one_or_its_weight() -> None:
    linears = tuple(
        replace(
            x, own=Trained(5 + i, {5 + i: 1.0 + i, LAYOUT.largest_rank(*x.shape, 2 * math.prod(x.shape) - 1) or 0: 0.3})
        )
        for i, x in enumerate(LINEARS[:3])
    )
    problem = RankBudget(linears, 0.7, LAYOUT, multiple=1)
    choices = [[*x.own.divergences, None] for x in linears]

    def lost(ranks):
        return sum(0.0 if r is None else x.own.divergences[r] for x, r in zip(linears, ranks, strict=True))

    fitting = [
        ranks
        for ranks in itertools.product(*choices)
        if problem.bytes(dict(zip((x.path for x in linears), ranks, strict=True))) <= problem.budget
    ]
    assert lost(Masks().choose(problem).values()) == pytest.approx(min(map(lost, fitting)))


def test_what_has_no_more_than_its_rank_pays_for_what_needs_all() -> None:
    """One of exactly rank R*/2, one whose components all count: with 1.5 matrices of bytes the second stays dense."""
    easy = replace(statistics("0.easy", (64, 64)), own=Trained(16, {16: 1e-9, 31: 0.0}))
    hard = replace(statistics("1.hard", (64, 64)), own=Trained(32, {31: 2.0}))
    ranks = Masks(multiple=1, fill_budget=False).ranks((easy, hard), 0.75, LAYOUT)
    assert ranks == {"0.easy": 16, "1.hard": None}


def test_trained_ranks_above_the_budget_give_way_a_little() -> None:
    linears = tuple(replace(x, own=Trained(20, {20: 1.0, 31: 0.2})) for x in (LINEARS[0], LINEARS[4]))
    ranks = Masks(multiple=1).choose(RankBudget(linears, 0.6, LAYOUT, multiple=1))  # 38.4 of 40
    assert all(rank is not None and rank >= 18 for rank in ranks.values())
    assert set(Masks().ranks(linears, 1.0, LAYOUT).values()) == {None}


def test_divergences_are_measured_at_what_was_trained(llama, tokens):
    original = original_of(llama, tokens)
    masks = Masks(multiple=1, steps=2, bins=10, training_samples=2, trial_samples=2, trial_length=10)
    request = masks.ask(Request(InputAware()))
    measured = measure(original, request, lambda *_: None)
    wanted = Wanted(Budgets(0.6), LAYOUT, request)
    found = {x.path: x.own for x in masks.measure(original, measured, wanted).linears}
    sample = original.cropped(2, None)
    trained = train_masks(sample, measured.solutions, masks, wanted.budgets, LAYOUT, lambda *_: None)
    assert {path: own.rank for path, own in found.items()} == trained
    path = measured.linears[3].path
    options = [o.rank for o in masks.problem(measured.linears, 0.6, LAYOUT).options[path] if o.rank is not None]
    tried = [min(trained[path], options[-1]), options[-1]]
    assert found[path].divergences.keys() == set(tried)
    expected = trial_divergences(original.cropped(2, 10), measured.solutions, {path: tried}, lambda *_: None).trials
    assert found[path].divergences == pytest.approx(expected[path], rel=1e-4)
