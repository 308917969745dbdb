"""What a recipe asks to have measured on the original model."""

from __future__ import annotations

from dataclasses import replace

from eckart.methods.recipe import Recipe
from eckart.methods.sensitivity.request import Request


def request_of(recipe: Recipe) -> Request:
    """Return what a recipe's objective, allocation and refinement ask for."""
    objective = recipe.objective
    asked = Request(objective, metric=objective.output_metric, structure=recipe.structure)
    asked = recipe.allocation.ask(asked)
    return replace(
        asked,
        metric=asked.metric or recipe.refinement.output_metric,
        keep_bases=asked.keep_bases or recipe.weighs_tokens,
    )
