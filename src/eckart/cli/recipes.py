"""``eckart recipes``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.table import Table

from eckart.cli.console import command, output
from eckart.compression.plan import check_keep
from eckart.methods.recipes.loader import load_recipe
from eckart.methods.recipes.published import DEFAULT_KEEP, DEFAULT_RECIPE, RECIPES


@command
def recipes(
    name: Annotated[str | None, typer.Argument(help="Show this one as YAML.", show_default=False)] = None,
    keep: Annotated[
        float, typer.Option(help="Bytes to keep, in (0, 1], that recipes which depend on it are shown for.")
    ] = DEFAULT_KEEP,
) -> None:
    """List the recipes, or show one as YAML to start your own from."""
    check_keep(keep)
    if name is not None:
        output.print(load_recipe(name, keep=keep).to_yaml(), end="", soft_wrap=True)
        return
    places, trainings = (
        ("objective", "allocation", "structure", "precision"),
        ("preparation", "refinement", "distillation"),
    )
    table = Table("recipe", *places, "training", "what it is", "paper", box=box.SIMPLE)
    for recipe in (load_recipe(known, keep=keep) for known in RECIPES):
        label = f"{recipe.name} (default)" if recipe.name == DEFAULT_RECIPE else recipe.name
        choices = [getattr(recipe, place).name for place in places]
        trained = [name for place in trainings if (name := getattr(recipe, place).name) != "none"]
        table.add_row(
            label,
            *choices,
            ", ".join(trained) or "none",
            recipe.reference,
            f"arXiv {recipe.arxiv}" if recipe.arxiv else recipe.paper,
        )
    output.print(table)
