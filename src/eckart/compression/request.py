"""What a recipe asks to have measured on the original model, and what of it is kept for the walk."""

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


def request_for_walk(recipe: Recipe) -> Request:
    """Return :func:`request_of` a recipe, with all kept that its layers are made of if that is what ranks need, too.

    Where the equation of the original model is solved for the ranks, the walk neither sums nor solves again.
    """
    request = request_of(recipe)
    if not recipe.ranks_are_of_the_same_equation:
        return request
    keep_bases = request.keep_bases or not recipe.structure.fits_itself
    return replace(request, keep_bases=keep_bases, keep_moments=True)
