"""Eckart's own recipes. Each is several, one for each range of budgets: what pays depends on how much is kept."""

from __future__ import annotations

from eckart.allocation import Curvature, Uniform
from eckart.metric import Fisher
from eckart.objectives import InputAware, Weight
from eckart.precision import Bits4, Bits8
from eckart.recipe import Recipe
from eckart.refinement import BlockRefinement
from eckart.structure import Hybrid, Pivoted

ByBudget = tuple[tuple[float, Recipe], ...]
"""The least share of bytes that a recipe is for, and the recipe; from the largest share down to 0."""

CLOSED_FORM = "input and output curvature, ranks by curvature, pivots: in closed form"

FAST = Recipe(
    name="eckart-fast",
    reference=f"Eckart without training: {CLOSED_FORM}",
    objective=InputAware(metric=Fisher(token_weights="gradient")),
    allocation=Curvature(),
    structure=Pivoted(),
)

EIGHT_BITS = Recipe(
    name="eckart-q",
    reference="Eckart with few bits: 8 bits; below a half 4 bits and factors for what they lose; then 4-bit factors",
    objective=Weight(),
    allocation=Uniform(),
    precision=Bits8(feedback=False),
)
FOUR_BITS_AND_FACTORS = EIGHT_BITS.model_copy(
    update={
        "objective": InputAware(metric=Fisher()),
        "allocation": Curvature(multiple=4),  # so that little more than the base fits, too
        "structure": Hybrid(base=Bits4(group=64)),
        "precision": Recipe.model_fields["precision"].get_default(call_default_factory=True),
    }
)
FOUR_BIT_FACTORS = EIGHT_BITS.model_copy(
    update={
        "objective": FAST.objective,
        "allocation": FAST.allocation,
        "structure": FAST.structure,
        "precision": Bits4(),
    }
)

BY_BUDGET: dict[str, ByBudget] = {
    "eckart": (
        (0.9, FAST.model_copy(update={"name": "eckart"})),
        (
            0.0,
            FAST.model_copy(
                update={
                    "name": "eckart",
                    "reference": f"Eckart: {CLOSED_FORM}; then blocks are refined in the output metric",
                    "refinement": BlockRefinement(epochs=6, batch=2, patience=2, metric=Fisher()),
                }
            ),
        ),
    ),
    "eckart-fast": ((0.0, FAST),),
    "eckart-q": ((0.502, EIGHT_BITS), (0.29, FOUR_BITS_AND_FACTORS), (0.0, FOUR_BIT_FACTORS)),
}


def for_budget(name: str, keep: float) -> Recipe:
    """Return the recipe called ``name`` for a share of bytes.

    Args:
        name: of :data:`BY_BUDGET`.
        keep: in (0, 1].
    """
    return next(recipe for least, recipe in BY_BUDGET[name] if keep >= least)
