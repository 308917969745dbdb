from __future__ import annotations

from eckart.methods.preparation import StableRank
from eckart.methods.recipes import preparation
from eckart.methods.recipes.published import RECIPES


def test_all_are_in_the_table_and_prepare() -> None:
    for recipe in preparation.RECIPES:
        assert RECIPES[recipe.name] is recipe
        assert recipe.preparation.training is not None


def test_prehab_has_the_numbers_of_the_authors_code() -> None:
    training = RECIPES["prehab"].preparation.training
    assert training is not None
    assert (training.penalty, training.coordinates) == (StableRank(), "white")
    assert (training.batch, training.weight_decay) == (64, 0)
    assert {training.rate(step, 256) for step in range(training.steps(256))} == {2e-5}
