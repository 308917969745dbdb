"""``eckart recipes``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.table import Table

from eckart.cli.console import command, output
from eckart.recipe import DEFAULT_RECIPE, RECIPES, load_recipe


@command
def recipes(
    name: Annotated[str | None, typer.Argument(help="Show this one as YAML.", show_default=False)] = None,
) -> None:
    """List the recipes, or show one as YAML to start your own from."""
    if name is not None:
        output.print(load_recipe(name).to_yaml(), end="", markup=False)
        return
    table = Table("recipe", "objective", "allocation", "structure", "refinement", "reference", box=box.SIMPLE)
    for recipe in RECIPES.values():
        label = f"{recipe.name} (default)" if recipe.name == DEFAULT_RECIPE else recipe.name
        places = (recipe.objective, recipe.allocation, recipe.structure, recipe.refinement)
        table.add_row(label, *(choice.name for choice in places), recipe.reference)
    output.print(table)
