"""What will be done to a model, before anything is done: its blocks, its targets and their ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

from transformers import PreTrainedModel

from eckart.blocks.discovery import Block, LinearRef, find_blocks
from eckart.blocks.fuse import fusable, join, separate
from eckart.blocks.onload import ResidentWeights, WeightSource
from eckart.errors import EckartError, UnsupportedModelError
from eckart.layers import fused_layers
from eckart.methods.allocation import LayerStatistics, Needs, Uniform
from eckart.methods.layout import BYTES_PER_NUMBER, Layout
from eckart.methods.recipe import Recipe
from eckart.methods.sharing import Shared
from eckart.methods.structure import Pivoted


@dataclass(frozen=True)
class Plan:
    """The blocks of a model and a rank for each target linear.

    Attributes:
        keep: bytes of the targets to keep, as was asked for.
        blocks: with their groups, in order of execution.
        ranks: by path; None where the linear stays dense.
        parameters: of the whole model as it is.
    """

    keep: float
    blocks: list[Block]
    ranks: dict[str, int | None]
    parameters: int

    @property
    def linears(self) -> list[LinearRef]:
        """All target linears, in order of execution."""
        return [ref for block in self.blocks for ref in block.linears]

    def bytes(self, layout: Layout) -> int:
        """Return the bytes of the whole model with the targets laid out at their ranks, and all else in 16 bits."""
        stored = sum(layout.beside_bias(ref.has_bias).bytes(*ref.shape, self.ranks[ref.path]) for ref in self.linears)
        return stored + BYTES_PER_NUMBER * (self.parameters - sum(ref.size for ref in self.linears))


def shapes_of(blocks: Sequence[Block]) -> tuple[LayerStatistics, ...]:
    """Return all that is known of the linears without a measurement, in order of execution."""
    groups = [group for block in blocks for group in block.groups]
    return tuple(
        LayerStatistics(ref.path, ref.shape, number, ref.name, has_bias=ref.has_bias)
        for number, group in enumerate(groups)
        for ref in group.linears
    )


def check_keep(keep: float) -> None:
    """Raise unless ``keep`` is a share of bytes that can be kept."""
    found: object = keep
    if not isinstance(found, Real):
        raise EckartError(
            f"keep is the share of the bytes to keep, a number above 0 and at most 1; found {type(keep).__name__}."
        )
    if not 0 < keep <= 1:
        raise EckartError(f"keep is the share of the bytes to keep, above 0 and at most 1; found {keep:g}.")


def blocks_for(recipe: Recipe, model: PreTrainedModel, weights: WeightSource) -> list[Block]:
    """Return the blocks of a model with what a recipe wants to know of them."""
    taken = recipe.allocation.needs & (Needs.FIRST_ORDER | Needs.CURVATURE)
    return find_blocks(
        model,
        weights,
        residuals=recipe.objective.residual_share > 0,
        units=isinstance(recipe.structure, Pivoted),
        gradients=bool(taken) or recipe.has_metric,
    )


def make_plan(model: PreTrainedModel, recipe: Recipe, keep: float, weights: WeightSource | None = None) -> Plan:
    """Find the target linears of ``model`` and give each a rank: a uniform one, which an allocation replaces.

    Args:
        model: to be compressed; if the recipe says that linears share a basis, they are joined in it.
        recipe: what is to be done to it.
        keep: bytes of the targets to keep, as a share.
        weights: where the model's tensors are; in memory by default.

    Raises:
        EckartError: ``keep`` is not in (0, 1], or the smallest ranks allowed take more.
        UnsupportedModelError: the model has no blocks of linears that could be factored, or none whose output goes to
            a residual stream, if the objective looks at that.
    """
    check_keep(keep)
    weights = weights or ResidentWeights()
    blocks = blocks_for(recipe, model, weights)
    if isinstance(recipe.sharing, Shared):
        join(model, fusable(blocks), weights)
        blocks = blocks_for(recipe, model, weights)
    try:
        return _uniform_plan(model, blocks, recipe, keep)
    except EckartError:
        separate(model, fused_layers(model), weights)
        raise


def _uniform_plan(model: PreTrainedModel, blocks: list[Block], recipe: Recipe, keep: float) -> Plan:
    linears = shapes_of(blocks)
    if not linears:
        raise UnsupportedModelError(f"The blocks of {type(model).__name__} run no linear layer that can be factored.")
    allocation = recipe.allocation
    # Uniform ranks under the same constraints: known at once, so that what cannot be done is refused at once.
    first = Uniform(
        multiple=allocation.multiple,
        floor=allocation.floor,
        fused_groups=allocation.fused_groups,
        fill_budget=allocation.fill_budget,
    )
    ranks = first.ranks(linears, keep, recipe.layout)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Plan(keep, blocks, ranks, parameters)
