from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.methods.allocation.helpers import LAYOUT, statistics
from tests.methods.sensitivity.helpers import original_of

from eckart.errors import RecipeError
from eckart.methods.allocation import Budgets, Curvature, Wanted
from eckart.methods.allocation.base import OwnMeasurement
from eckart.methods.allocation.rank_budget import RankBudget
from eckart.methods.allocation.reference_trials import reference_divergences
from eckart.methods.objectives import InputAware
from eckart.methods.recipe import Recipe
from eckart.methods.sensitivity.measure import measure
from eckart.methods.sensitivity.request import Request
from eckart.methods.structure import Hybrid


def test_curvature_prices_the_jump_to_dense() -> None:
    """A linear whose loss lies in its last components is better left dense than factored at any rank."""
    flat = statistics("0.flat", (64, 64), curvature=torch.ones(64, dtype=torch.float64))
    steep = statistics("0.steep", (64, 64), curvature=0.7 ** torch.arange(64, dtype=torch.float64))
    ranks = Curvature(multiple=1).ranks((flat, steep), 0.7, LAYOUT)
    assert ranks["0.flat"] is None
    assert ranks["0.steep"] is not None


MEASURED = Curvature(scale="measured", multiple=1)


@pytest.mark.parametrize("keep", [0.5, 0.75])
def test_a_measured_scale_multiplies_the_prediction_and_the_choice_is_exact(keep: float) -> None:
    linears: Any = tuple(
        replace(statistics(f"{i}.x", (20, 20), seed=i), own=divergence) for i, divergence in enumerate((0.2, 5.0, 1.0))
    )

    def lost(ranks):
        # One of ten is the reference rank.
        return sum(
            0.0 if r is None else float(x.own * x.curvature[r:].sum() / x.curvature[1:].sum())
            for x, r in zip(linears, ranks, strict=True)
        )

    problem = RankBudget(linears, keep, LAYOUT, multiple=1)
    choices = [
        ranks
        for ranks in itertools.product([*range(1, 10), None], repeat=3)
        if problem.bytes(dict(zip(("0.x", "1.x", "2.x"), ranks, strict=True))) <= problem.budget
    ]
    assert lost(MEASURED.choose(problem).values()) == pytest.approx(min(map(lost, choices)))


def test_the_scale_is_the_divergence_at_the_reference_rank(llama, tokens):
    original = original_of(llama, tokens)
    allocation = MEASURED.model_copy(update={"trial_samples": 2, "trial_length": 10, "reference": 0.4})
    request = allocation.ask(Request(InputAware()))
    assert request.keep_bases
    assert allocation.own_measurement is OwnMeasurement.ONCE
    measured = measure(original, request, lambda *_: None)
    wanted = Wanted(Budgets(0.6), LAYOUT, request)
    found = {x.path: x.own for x in allocation.measure(original, measured, wanted).linears}
    assert found == pytest.approx(reference_divergences(original.cropped(2, 10), measured, wanted, 0.4), rel=1e-4)
    assert Curvature().measure(original, measured, wanted) is measured
    assert not Curvature().ask(Request(InputAware())).keep_bases


def test_a_scale_is_measured_by_truncating() -> None:
    with pytest.raises(RecipeError, match="Allocation 'curvature' of a measured scale runs the model with weights"):
        Recipe(objective=InputAware(), allocation=MEASURED, structure=Hybrid())
