"""The recipes of papers about structures, against what their papers say of sizes."""

from __future__ import annotations

from eckart.methods.allocation import Knapsack, Tolerance
from eckart.methods.recipes.published import RECIPES as ALL
from eckart.methods.recipes.structures import RECIPES

FOUND = {recipe.name: recipe for recipe in RECIPES}


def test_the_table_has_them() -> None:
    assert all(ALL[recipe.name] is recipe for recipe in RECIPES)


def test_rocket_chooses_sizes_and_sparsities_by_errors_of_plain_weights() -> None:
    recipe = FOUND["rocket"]
    assert isinstance(recipe.allocation, Knapsack)
    assert (recipe.allocation.error, recipe.allocation.fill_budget) == ("plain", False)
    assert recipe.allocation.caps == tuple(x / 10 for x in range(10, 21))
    assert recipe.structure.takes_sparsity


def test_compot_pools_singular_values_of_plain_weights() -> None:
    allocation = FOUND["compot"].allocation
    assert isinstance(allocation, Tolerance)
    assert (allocation.norm, allocation.multiple, allocation.fill_budget) == ("spectral", 1, False)
