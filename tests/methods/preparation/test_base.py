"""Where a recipe prepares nothing, no block is trained."""

from __future__ import annotations

import pytest

import eckart
from eckart.errors import RecipeError
from eckart.methods.preparation import BlockPreparation, NoPreparation, StableRank, Tail


def test_none_trains_nothing() -> None:
    chosen = eckart.load_recipe("svd-llm").preparation
    assert chosen == NoPreparation()
    assert chosen.training is None
    assert "preparation" not in eckart.load_recipe("svd-llm").to_yaml()


def test_fields_are_set_by_their_names() -> None:
    recipe = eckart.load_recipe("svd-llm", ["preparation=block", "preparation.penalty.weight=3"])
    assert recipe.preparation == BlockPreparation(penalty=Tail(weight=3))
    assert recipe.preparation.training is recipe.preparation
    recipe = eckart.load_recipe("svd-llm", ["preparation=block", "preparation.penalty=stable-rank"])
    assert recipe.preparation == BlockPreparation(penalty=StableRank())
    assert BlockPreparation(epochs=0).training is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("preparation=blok", "did you mean 'block'"),
        ("preparation.penalty=tails", "did you mean 'tail'"),
        ("preparation.held_out=0", "greater than 0"),
        ("preparation.epochs=-1", "greater than or equal to 0"),
        ("preparation.coordinates=grey", "'weights' or 'white'"),
        ("preparation.penalty.refresh=0", "greater than or equal to 1"),
        ("preparation.patience_=1", "no field"),
    ],
)
def test_mistakes_are_answered(wrong: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        eckart.load_recipe("svd-llm", ["preparation=block", wrong])
