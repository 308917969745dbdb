"""LEMS, against its rules written out."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from tests.methods.allocation.helpers import DIVERGED, LAYOUT, LINEARS, statistics
from tests.methods.sensitivity.helpers import original_of

from eckart.methods.allocation import Budgets, Lems, Needs, Wanted
from eckart.methods.allocation.base import OwnMeasurement
from eckart.methods.allocation.lems import Trialled, block_biases
from eckart.methods.allocation.rank_budget import RankBudget
from eckart.methods.allocation.reference_trials import reference_divergences
from eckart.methods.allocation.trials import trial_divergences
from eckart.methods.objectives import InputAware
from eckart.methods.sensitivity.measure import measure
from eckart.methods.sensitivity.request import Request


def test_biases_fall_from_the_first_block_to_one() -> None:
    assert block_biases(4, 1, 3) == pytest.approx([4, 2.363636, 1.545455, 1], abs=1e-6)
    assert block_biases(5, 0, 2) == pytest.approx([3, 2.5, 2, 1.5, 1])
    assert block_biases(1, 1, 3) == [1]
    assert block_biases(3, 2, 0) == [1, 1, 1]


def published_error(linear, rank, divergence, bias=1.0):
    """What the paper's code sums: b K t(r) / t(ref), with R = int(mn / (m + n)) and ref = int(0.1 R)."""
    m, n = linear.shape
    energy = linear.energy.tolist()
    tail = [sum(energy[r:]) / sum(energy) for r in range(len(energy) + 1)]
    reference = int(0.1 * int(m * n / (m + n)))
    return 0.0 if rank is None else bias * divergence * tail[rank] / max(tail[reference], 1e-6)


@pytest.mark.parametrize("keep", [0.45, 0.6, 0.85])
def test_no_choice_of_three_matrices_has_less_error(keep: float) -> None:
    """By brute force over multiples of 2 from 0.3 R (0.1 R below a half) to 0.95 R, and dense."""
    linears = tuple(
        replace(statistics(f"{i}.x", shape, seed=i), own=Trialled((0.2, 3.0, 0.7)[i], (2.0, 1.5, 1.0)[i]))
        for i, shape in enumerate([(40, 40), (30, 60), (60, 40)])
    )
    options = []
    for linear in linears:
        m, n = linear.shape
        most = int(m * n / (m + n))
        least = (0.3 if keep >= 0.5 else 0.1) * most
        options.append([*(r for r in range(2, most, 2) if least <= r < int(0.95 * most)), None])
    budget = keep * sum(math.prod(linear.shape) for linear in linears)

    def lost(ranks):
        return sum(published_error(x, r, x.own.divergence, x.own.bias) for x, r in zip(linears, ranks, strict=True))

    def numbers(ranks):
        return sum(math.prod(x.shape) if r is None else r * sum(x.shape) for x, r in zip(linears, ranks, strict=True))

    best = min((ranks for ranks in itertools.product(*options) if numbers(ranks) <= budget), key=lost)
    found = Lems(multiple=2).choose(RankBudget(linears, keep, LAYOUT, multiple=2))
    assert lost(found.values()) == pytest.approx(lost(best))
    assert numbers(found.values()) <= budget


def test_all_that_may_stay_dense_does() -> None:
    assert set(Lems().ranks(DIVERGED, 1.0, LAYOUT).values()) == {None}
    # One alone that matters far more than all others.
    linears = tuple(replace(x, own=Trialled(1e3 if i == 2 else 1e-3, 1.0)) for i, x in enumerate(LINEARS))
    assert Lems(multiple=1).ranks(linears, 0.6, LAYOUT)[LINEARS[2].path] is None


def test_a_linear_that_breaks_the_model_is_not_free() -> None:
    linears = tuple(replace(x, own=Trialled(math.inf if i == 3 else 1.0, 1.0)) for i, x in enumerate(LINEARS))
    assert Lems().ranks(linears, 0.7, LAYOUT)[LINEARS[3].path] is None
    # Where all must be factored it is so, too.
    assert None not in Lems(multiple=1).ranks(linears, 0.05, LAYOUT).values()


def test_ranks_below_the_published_ones_are_taken_where_the_budget_asks_for_them() -> None:
    problem = RankBudget(DIVERGED, 0.06, LAYOUT, multiple=1)
    assert problem.bytes(Lems(multiple=1).choose(problem)) <= problem.budget


def test_divergences_and_biases_are_measured(llama, tokens):
    original = original_of(llama, tokens)
    request = Request(InputAware(), Needs.SPECTRUM, keep_bases=True)
    measured = measure(original, request, lambda *_: None)
    wanted = Wanted(Budgets(0.6), LAYOUT, request)
    lems = Lems(multiple=1, trial_samples=3, trial_length=16, first_position=4, alpha=1, gamma=3)
    assert lems.own_measurement is OwnMeasurement.ONCE
    found = {x.path: x.own for x in lems.measure(original, measured, wanted).linears}
    sample = original.cropped(3, 16)
    expected = reference_divergences(sample, measured, wanted, 0.1, temperature=0.6, first=4)
    assert {path: own.divergence for path, own in found.items()} == pytest.approx(expected, rel=1e-4)
    for number, block in enumerate(original.blocks):
        assert {found[ref.path].bias for ref in block.linears} == {block_biases(len(original.blocks), 1, 3)[number]}

    # Of several pairs that one stays with which the truncated model is nearest.
    searching = lems.model_copy(update={"biases": ((0.0, 0.0), (0.0, 6.0))})
    assert searching.own_measurement is OwnMeasurement.FOR_EACH_SIZE
    losses = {}
    for pair in ((1.0, 3.0), *searching.biases):
        biases = block_biases(len(original.blocks), *pair)
        own = {
            ref.path: Trialled(found[ref.path].divergence, biases[number])
            for number, block in enumerate(original.blocks)
            for ref in block.linears
        }
        linears = tuple(replace(x, own=own[x.path]) for x in measured.linears)
        ranks = lems.ranks(linears, 0.6, LAYOUT)
        losses[pair] = trial_divergences(
            sample, measured.solutions, {}, lambda *_: None, ranks, temperature=0.6, first=4
        ).base
    best = block_biases(len(original.blocks), *min(losses, key=lambda pair: losses[pair]))
    chosen = searching.measure(original, measured, wanted).linears
    assert [x.own.bias for x in chosen if x.path in {b.linears[0].path for b in original.blocks}] == best


def test_a_spectrum_without_energy_has_no_error() -> None:
    still = replace(LINEARS[0], energy=torch.zeros(64, dtype=torch.float64), own=Trialled(0.0, 1.0))
    assert set(Lems().errors(RankBudget((still,), 0.5, LAYOUT))[still.path]) == {0.0}
