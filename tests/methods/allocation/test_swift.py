"""Swift-SVD's ranks, against its rule written out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.methods.allocation.helpers import LAYOUT, statistics
from tests.methods.allocation.test_trials import cut
from tests.methods.sensitivity.helpers import original_of
from torch.nn import functional

from eckart.methods.allocation import Budgets, Swift, Wanted
from eckart.methods.allocation.base import OwnMeasurement
from eckart.methods.allocation.rank_budget import RankBudget
from eckart.methods.objectives import InputAware
from eckart.methods.sensitivity.measure import measure
from eckart.methods.sensitivity.request import Request


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_ranks_go_by_importance_and_loss(alpha: float) -> None:
    """For one kind of 80 x 80, so that the uniform rank is 20 at a half of the bytes."""
    similarities = (0.9, 0.6, 0.3, 0.8)
    linears: Any = tuple(statistics(f"{i}.x", (80, 80), seed=i, similarity=s) for i, s in enumerate(similarities))
    scores = []
    for linear, similarity in zip(linears, similarities, strict=True):
        importance = 1 + ((1 - similarity) - 0.1) / (0.7 - 0.1)
        loss = math.sqrt(100 * float(linear.energy[20:].sum()))
        scores.append(importance**alpha * math.log(math.e + loss) ** (1 - alpha))
    expected = [int(0.5 * 20 + 4 * 0.5 * 20 * score / sum(scores) + 1e-9) for score in scores]
    found = Swift(alpha=alpha).choose(RankBudget(linears, 0.5, LAYOUT, multiple=1))
    assert list(found.values()) == expected


def test_kinds_are_apart_and_what_is_alike_is_uniform() -> None:
    linears = tuple(
        statistics(f"{i}.{kind}", shape, seed=0, similarity=0.5)
        for i in range(2)
        for kind, shape in (("x", (64, 64)), ("y", (64, 96)))
    )
    shares = Swift(alpha=0.5).shares(RankBudget(linears, 0.5, LAYOUT))
    assert shares == pytest.approx(dict.fromkeys(shares, 0.5))
    # One is more important: only its own kind gives.
    changed = (replace(linears[0], similarity=0.1), *linears[1:])
    shares = Swift(alpha=0.5).shares(RankBudget(changed, 0.5, LAYOUT))
    assert shares["0.x"] > 0.5 > shares["1.x"]
    assert shares["0.x"] + shares["1.x"] == pytest.approx(1)
    assert shares["0.y"] == pytest.approx(0.5)


def test_the_exponent_is_that_of_the_least_loss(llama, tokens):
    original = original_of(llama, tokens)
    swift = Swift(multiple=1, alphas=(0.0, 0.5, 1.0), trial_samples=4, trial_length=10)
    assert swift.own_measurement is OwnMeasurement.FOR_EACH_SIZE
    request = swift.ask(Request(InputAware()))
    measured = measure(original, request, lambda *_: None)
    losses = {}
    for alpha in swift.alphas:
        ranks = Swift(multiple=1, alpha=alpha).ranks(measured.linears, 0.5, LAYOUT)
        with torch.no_grad():
            logits = cut(llama, measured.solutions, ranks)(input_ids=tokens[:4, :10]).logits[:, :-1].flatten(0, 1)
        losses[alpha] = float(functional.cross_entropy(logits, tokens[:4, 1:10].flatten()))
    found = swift.measure(original, measured, Wanted(Budgets(0.5), LAYOUT, request))
    assert {x.own for x in found.linears} == {min(losses, key=lambda alpha: losses[alpha])}

    said = swift.model_copy(update={"alpha": 0.3})
    assert said.own_measurement is OwnMeasurement.NONE
    assert not said.ask(Request(InputAware())).keep_bases
    assert said.measure(original, measured, Wanted(Budgets(0.5), LAYOUT, request)) is measured
