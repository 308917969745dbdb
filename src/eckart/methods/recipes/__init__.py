"""The named recipes, and how recipes are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eckart.lazy import importer

if TYPE_CHECKING:
    from eckart.methods.recipes.loader import load_recipe
    from eckart.methods.recipes.published import DEFAULT_KEEP, DEFAULT_RECIPE, RECIPES

__all__ = ["DEFAULT_KEEP", "DEFAULT_RECIPE", "RECIPES", "load_recipe"]

__getattr__ = importer(
    __name__,
    {
        "DEFAULT_KEEP": "eckart.methods.recipes.published:DEFAULT_KEEP",
        "DEFAULT_RECIPE": "eckart.methods.recipes.published:DEFAULT_RECIPE",
        "RECIPES": "eckart.methods.recipes.published:RECIPES",
        "load_recipe": "eckart.methods.recipes.loader:load_recipe",
    },
)
