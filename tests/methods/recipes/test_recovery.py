from __future__ import annotations

from eckart.methods.recipes.published import RECIPES
from eckart.methods.recipes.recovery import RECIPES


def test_all_are_in_the_table_and_train() -> None:
    for recipe in RECIPES:
        assert RECIPES[recipe.name] is recipe
        assert recipe.distillation.training is not None
