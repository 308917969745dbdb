"""The recipes of papers about ranks, against what their papers say."""

from __future__ import annotations

import pytest

from eckart.methods.allocation import Lems, SecondRound, Swift, Tolerance
from eckart.methods.metric import Fisher
from eckart.methods.objectives import InputAware
from eckart.methods.recipes.published import RECIPES as ALL
from eckart.methods.recipes.ranks import RECIPES

FOUND = {recipe.name: recipe for recipe in RECIPES}


def test_the_table_has_them() -> None:
    assert all(ALL[recipe.name] is recipe for recipe in RECIPES)


@pytest.mark.parametrize("name", ["kfac-svd", "kfac-svd-lems"])
def test_kfac_svd_clips_trims_and_damps_as_published(name: str) -> None:
    objective = FOUND[name].objective
    assert isinstance(objective, InputAware)
    metric = objective.metric
    assert isinstance(metric, Fisher)
    assert (metric.labels, metric.clip, metric.trim) == ("next", (0.1, 10.0), 0.125)
    # a / (1 - a)
    assert objective.shrinkage / (1 + objective.shrinkage) == pytest.approx(0.1)
    assert metric.shrinkage / (1 + metric.shrinkage) == pytest.approx(0.3)


def test_numbers_of_their_allocations_are_the_published_ones() -> None:
    lems = FOUND["kfac-svd-lems"].allocation
    assert isinstance(lems, Lems)
    assert (lems.multiple, lems.reference, lems.trial_samples) == (8, 0.1, 32)
    assert (lems.temperature, lems.first_position) == (0.6, 256)
    assert (lems.least, lems.least_below_half, lems.most) == (0.3, 0.1, 0.95)
    assert (lems.gamma, lems.biases) == (0, ())  # none: others found that it does nothing
    swift = FOUND["swift-svd"].allocation
    assert isinstance(swift, Swift)
    assert swift.base == 0.5
    assert swift.alphas == pytest.approx([x / 10 for x in range(11)])
    duo = FOUND["duo-svd-ranks"].allocation
    assert isinstance(duo, SecondRound)
    assert duo.shares == pytest.approx([x / 10 for x in range(1, 11)])
    assert (duo.rounds, duo.trial_samples) == (1, 32)
    assert isinstance(FOUND["pgsvd"].allocation, Tolerance)
