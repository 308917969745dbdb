"""Eckart's own recipes. Each is several, one for each range of budgets: what pays depends on how much is kept."""

from __future__ import annotations

from eckart.methods.allocation import Curvature, Formats, Uniform
from eckart.methods.distillation import LogitDistillation
from eckart.methods.metric import Fisher
from eckart.methods.objectives import Blended, InputAware, Weight
from eckart.methods.precision import Bits2, Bits3, Bits4, Bits5, Bits6, Bits8
from eckart.methods.recipe import Recipe
from eckart.methods.refinement import BlockRefinement
from eckart.methods.structure import Hybrid, Pivoted

ByBudget = tuple[tuple[float, Recipe], ...]
"""The least share of bytes that a recipe is for, and the recipe; from the largest share down to 0."""

CLOSED_FORM = "output metric, tokens weighed by their gradients, ranks by curvature, pivots"
BLENDED_FORM = "both models' inputs blended, pivots"
FEW_BITS = "8 bits; below a half 4 bits and factors for what they lose; then 4-bit factors"


CLOSED = Recipe(
    name="eckart-fast",
    reference=f"Eckart's own: {CLOSED_FORM}; in closed form",
    objective=InputAware(metric=Fisher(token_weights="gradient")),
    allocation=Curvature(),
    structure=Pivoted(),
)

# Where little is kept, what the layers in front have lost matters most, and none can do with next to no rank.
BLENDED = CLOSED.model_copy(
    update={
        "reference": f"Eckart's own: {BLENDED_FORM}, output metric; in closed form",
        "objective": Blended(metric=Fisher()),
        "allocation": Curvature(floor=0.1),
    }
)
# Larger and more steps than published, since there are few tokens; more tokens take fewer epochs.
REFINEMENT = BlockRefinement(
    epochs=6, max_steps=224, batch=1, learning_rate=2e-3, relative=True, patience=2, metric=Fisher()
)
DISTILLATION = LogitDistillation(epochs=3, batch=1, learning_rate=5e-4)
TRAINED = CLOSED.model_copy(
    update={
        "name": "eckart",
        "reference": f"Eckart's own: {CLOSED_FORM}; blocks refined, then the model distilled",
        "refinement": REFINEMENT,
        "distillation": DISTILLATION,
    }
)

AUTO = Recipe(
    name="auto",
    reference="Eckart's own: 8 to 2 bits and factors beside them, layer by layer as predicted from both curvatures",
    # Not blended: with 30 tokens an input feature that loses twice as much on other text (docs/results/few-bits.md).
    objective=InputAware(metric=Fisher()),
    allocation=Formats(
        bases=(
            *(Bits8(), Bits6(descent=2, scale_bits=8), Bits5(descent=2, scale_bits=8)),
            *(Bits4(group=64, descent=2, scale_bits=8), Bits3(descent=2, scale_bits=8)),
            Bits2(descent=2, scale_bits=8),
        )
    ),
    structure=Hybrid(base=Bits4(group=64), alternations=3),
    precision=Bits8(),
)

AUTO_TRAINED = AUTO.model_copy(
    update={
        "name": "auto-trained",
        "reference": "Eckart's own: as auto; then scales, factors and norms of each block trained, and the whole model",
        "refinement": REFINEMENT,
        "distillation": DISTILLATION,
    }
)
SPEED = Recipe(
    name="auto-speed",
    reference="Eckart's own: 8 or 4 bits, layer by layer as predicted from both curvatures; for decoding on CPUs",
    objective=InputAware(metric=Fisher()),
    # Those that there are products for, on most machines.
    allocation=Formats(bases=(Bits8(), Bits4(group=64, descent=2)), factors=False),
    structure=Hybrid(base=Bits4(group=64)),
    precision=Bits8(),
)

BY_BUDGET: dict[str, ByBudget] = {
    "auto": ((0.0, AUTO),),
    "auto-speed": ((0.0, SPEED),),
    "auto-trained": ((0.0, AUTO_TRAINED),),
    "eckart": ((0.9, CLOSED.model_copy(update={"name": "eckart"})), (0.0, TRAINED)),
    "eckart-fast": (
        (0.65, CLOSED),
        (0.25, BLENDED),
        # What still works there, such as a mixture of which few experts matter, needs no least rank everywhere.
        (0.0, CLOSED),
    ),
    "eckart-q": (
        (
            0.502,
            Recipe(
                name="eckart-q",
                reference=f"Eckart's own, quantised: {FEW_BITS}",
                objective=Weight(),
                allocation=Uniform(),
                precision=Bits8(feedback=False),
            ),
        ),
        (
            0.29,
            Recipe(
                name="eckart-q",
                reference=f"Eckart's own, quantised: {FEW_BITS}",
                objective=InputAware(metric=Fisher()),
                allocation=Curvature(multiple=4),  # so that little more than the base fits, too
                structure=Hybrid(base=Bits4(group=64)),
            ),
        ),
        (
            0.0,
            Recipe(
                name="eckart-q",
                reference=f"Eckart's own, quantised: {FEW_BITS}",
                objective=InputAware(metric=Fisher(token_weights="gradient")),
                allocation=Curvature(),
                structure=Pivoted(),
                precision=Bits4(),
            ),
        ),
    ),
}


def for_budget(name: str, keep: float) -> Recipe:
    """Return the recipe called ``name`` for a share of bytes.

    Args:
        name: of :data:`BY_BUDGET`.
        keep: in (0, 1].
    """
    return next(recipe for least, recipe in BY_BUDGET[name] if keep >= least)
