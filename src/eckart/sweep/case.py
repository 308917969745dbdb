"""What a sweep measures: each recipe at each size, and what of the work for it is done for others too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from eckart.compression.plan import check_keep
from eckart.compression.request import request_of
from eckart.errors import EckartError, RecipeError
from eckart.methods.allocation import LayerStatistics
from eckart.methods.allocation.rank_budget import RankBudget
from eckart.methods.objectives import InputSource
from eckart.methods.recipe import Recipe
from eckart.methods.recipes.loader import load_recipe
from eckart.methods.sensitivity.request import Request
from eckart.methods.structure import TwoFactor

DENSE = "dense"


class Way(Enum):
    """How the model of a case is made.

    ``TRUNCATED``: from the components of the original model's weights, which all sizes share. ``WALKED``: by a walk of
    its own, since its equation depends on what was compressed before; only the measurement that its ranks follow from
    is shared. ``ALONE``: as ``eckart compress`` makes it, since its measurement depends on the size too.
    """

    TRUNCATED = auto()
    WALKED = auto()
    ALONE = auto()


@dataclass(frozen=True)
class Case:
    """One row that is wanted.

    Attributes:
        label: of the recipe, as asked for; ``dense`` for the model as it is.
        recipe: None for the dense model.
        keep: bytes to keep, as a share.
        samples: calibration samples; None if no data is looked at.
    """

    label: str
    recipe: Recipe | None
    keep: float
    samples: int | None

    def __str__(self) -> str:
        if self.recipe is None:
            return self.label
        return f"{self.label} at {self.keep:g}" + ("" if self.samples is None else f", {self.samples} samples")


def split_label(label: str) -> tuple[str, list[str]]:
    """Return the recipe's name or file, and its overrides, of ``NAME+key=value+key=value``."""
    name, *overrides = re.split(r"\+(?=[\w.]+=|(?:targets|towers)\.[^=+]+=)", label)
    return name, overrides


def recipe_of(label: str, keep: float | None = None) -> Recipe:
    """Return the recipe of a name or a file with ``+key=value`` overrides appended, for a share of bytes.

    Raises:
        RecipeError: there is no such recipe, field or choice, or a value is out of range.
    """
    name, overrides = split_label(label)
    return load_recipe(name, overrides, keep)


def cases_of(
    recipes: Sequence[str | Recipe], keep: Sequence[float], samples: Sequence[int], overrides: Sequence[str] = ()
) -> list[Case]:
    """Return the dense model, and each recipe at each size and number of calibration samples.

    Args:
        recipes: names or files with ``+key=value`` overrides appended, or recipes, which go by their own names.
        keep: bytes to keep, as shares in (0, 1].
        samples: numbers of calibration samples; recipes that look at no data are there once.
        overrides: of all recipes; they are seen in the labels.

    Raises:
        EckartError: nothing is asked for, something twice, or something that cannot be.
    """
    recipes = [
        load_recipe(recipe, overrides) if isinstance(recipe, Recipe) else "+".join([recipe, *overrides])
        for recipe in recipes
    ]
    labels = [recipe.name if isinstance(recipe, Recipe) else recipe for recipe in recipes]
    for what, values in (("recipe", labels), ("size to keep", keep), ("number of samples", samples)):
        _check_unique(what, values)
    if DENSE in labels:
        raise RecipeError(f"The dense model is measured in every sweep; {DENSE!r} is no recipe.")
    for share in keep:
        check_keep(share)
    for number in samples:
        if number < 1:
            raise EckartError(f"Calibration needs at least 1 sample, found {number}.")
    cases = [Case(DENSE, None, 1.0, None)]
    for label, recipe in zip(labels, recipes, strict=True):
        chosen = {share: recipe if isinstance(recipe, Recipe) else recipe_of(recipe, share) for share in keep}
        for number in samples:
            cases += [Case(label, chosen[share], share, number) for share in keep if chosen[share].needs_data]
        cases += [Case(label, chosen[share], share, None) for share in keep if not chosen[share].needs_data]
    return cases


def way_of(recipe: Recipe) -> Way:
    """Return how the model of a recipe is made."""
    if recipe.sharing.measures or recipe.allocation.changes_weights or recipe.pairs.narrows:
        return Way.ALONE
    objective = recipe.objective
    original_only = (
        objective.input_source in (InputSource.NONE, InputSource.ORIGINAL) and not objective.observes_outputs
    )
    trained = recipe.refinement.needs_data or recipe.distillation.needs_data
    trained = trained or recipe.preparation.training is not None
    # Experts are fitted again when their basis is known, and what is solved from a sketch is so for one rank.
    looks_again = trained or recipe.sharing.fuses_experts or recipe.solver.sketches
    return Way.TRUNCATED if original_only and not looks_again else Way.WALKED


def request_for(recipe: Recipe, keep: Iterable[float], linears: tuple[LayerStatistics, ...]) -> Request | None:
    """Return what a recipe shares with others; None if there is nothing to be measured for it.

    Args:
        recipe: that is wanted.
        keep: at these sizes.
        linears: of the model, by their shapes.
    """
    way = way_of(recipe)
    if way is Way.ALONE:
        return None
    layout, truncated = recipe.layout, way is Way.TRUNCATED
    bases = truncated and not layout.structure.fits_itself and any(_factors(recipe, k, linears) for k in keep)
    request = request_of(recipe)
    request = replace(
        request,
        keep_bases=request.keep_bases or bases,
        keep_inputs=truncated and layout.looks_at_inputs and recipe.objective.needs_data,
    )
    if not layout.structure.adds_to_base:
        request = replace(request, structure=TwoFactor())
    return None if request.is_empty else request


def _factors(recipe: Recipe, keep: float, linears: tuple[LayerStatistics, ...]) -> bool:
    """Return whether any linear may be factored; some precisions leave them whole."""
    if recipe.targets or recipe.towers:  # some may, whatever all others keep
        return True
    allocation = recipe.allocation
    problem = RankBudget(linears, keep, recipe.layout, allocation.multiple, allocation.floor, allocation.fused_groups)
    return problem.budget < problem.whole_bytes


def _check_unique(what: str, values: Sequence[object]) -> None:
    if not values:
        raise EckartError(f"A sweep needs at least one {what}.")
    for value in values:
        if values.count(value) > 1:
            raise EckartError(f"The {what} {value} is asked for twice.")
