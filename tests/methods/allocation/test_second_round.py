"""Changes of the divergence around the compressed model, against single models of which one linear is changed."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from tests.methods.allocation.helpers import LAYOUT, LINEARS, around
from tests.methods.allocation.test_trials import cut, divergence_of
from tests.methods.sensitivity.helpers import original_of

from eckart.methods.allocation import Budgets, SecondRound, Wanted
from eckart.methods.allocation.base import uniform_choice
from eckart.methods.allocation.rank_budget import RankBudget
from eckart.methods.objectives import InputAware
from eckart.methods.sensitivity.measure import measure
from eckart.methods.sensitivity.request import Request
from eckart.methods.targets import Size

QUICK = {"multiple": 1, "trial_samples": 3, "trial_length": 12, "fill_budget": False}


@pytest.mark.parametrize("keep", [0.45, 0.7])
def test_no_choice_of_measured_ranks_has_a_smaller_sum(keep: float) -> None:
    linears = tuple(
        replace(x, own={r: v for r, v in around(x, i).items() if r in (2, 6, 10, None)})
        for i, x in enumerate(LINEARS[:3])
    )
    problem = RankBudget(linears, keep, LAYOUT, multiple=1)

    def lost(ranks):
        return sum(x.own[rank] for x, rank in zip(linears, ranks, strict=True))

    fitting = [
        ranks
        for ranks in itertools.product((2, 6, 10, None), repeat=3)
        if problem.bytes(dict(zip((x.path for x in linears), ranks, strict=True))) <= problem.budget
    ]
    found = SecondRound(multiple=1).choose(problem)
    assert lost(found.values()) == pytest.approx(min(map(lost, fitting)))


def test_what_breaks_the_compressed_model_is_not_chosen() -> None:
    linears = tuple(replace(x, own={**around(x, i), 3: math.inf}) for i, x in enumerate(LINEARS))
    assert 3 not in SecondRound(multiple=1).choose(RankBudget(linears, 0.6, LAYOUT, multiple=1)).values()


@pytest.mark.parametrize("rounds", [1, 2])
def test_each_linear_alone_is_changed_in_the_compressed_model(rounds, llama, tokens):
    original = original_of(llama, tokens)
    allocation = SecondRound(shares=(0.3, 1.0), rounds=rounds, **QUICK)
    request = allocation.ask(Request(InputAware()))
    measured = measure(original, request, lambda *_: None)
    fixed = measured.linears[0].path
    wanted = Wanted(Budgets(0.5, {fixed: Size("x", None, 3)}), LAYOUT, request)
    found = allocation.measure(original, measured, wanted)
    base = {fixed: 3, **uniform_choice(RankBudget(measured.linears[1:], 0.5, LAYOUT, multiple=1))}
    if rounds > 1:
        before = allocation.model_copy(update={"rounds": 1}).measure(original, measured, wanted)
        base = allocation.ranks_within(before.linears, wanted.budgets, LAYOUT)
    own = {x.path: x.own for x in found.linears}
    assert own[fixed].keys() == {3}
    whole = divergence_of(cut(llama, measured.solutions, base), llama, tokens[:3, :12], 1.0, 0)
    for linear in (measured.linears[4], measured.linears[-1]):
        path = linear.path
        assert own[path].keys() == {base[path], LAYOUT.rank_of_share(*linear.shape, 0.3), None}
        for rank, loss in own[path].items():
            changed = cut(llama, measured.solutions, {**base, path: rank})
            expected = whole if rank == base[path] else divergence_of(changed, llama, tokens[:3, :12], 1.0, 0)
            assert loss == pytest.approx(expected, rel=1e-3, abs=1e-7)
