from __future__ import annotations

from eckart.methods.recipes import recovery
from eckart.methods.recipes.published import RECIPES


def test_all_are_in_the_table_and_train() -> None:
    for recipe in recovery.RECIPES:
        assert RECIPES[recipe.name] is recipe
        assert recipe.distillation.training is not None or recipe.refinement.training is not None
