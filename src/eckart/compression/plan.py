"""What will be done to a model, before anything is done: its blocks, their linears and the ranks."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

from transformers import PreTrainedModel

from eckart.blocks.discovery import Block, LinearRef, find_blocks
from eckart.blocks.expert_stacks import contract, expand
from eckart.blocks.fuse import fusable, fuse, unfuse
from eckart.blocks.onload import ResidentWeights, WeightSource
from eckart.errors import EckartError, UnsupportedModelError
from eckart.layers import fused_layers
from eckart.methods.allocation import Needs, Uniform
from eckart.methods.layout import BYTES_PER_NUMBER
from eckart.methods.recipe import Recipe
from eckart.methods.sensitivity.layer_statistics import shapes_of


@dataclass(frozen=True)
class Plan:
    """What is done to a model: the recipe, the blocks, and a rank for each linear in them.

    Attributes:
        recipe: what is done.
        keep: bytes of the linears to keep, as was asked for.
        blocks: with their groups, in order of execution.
        ranks: by path; None where the linear stays dense.
        parameters: of the whole model as it is.
    """

    recipe: Recipe
    keep: float
    blocks: list[Block]
    ranks: dict[str, int | None]
    parameters: int

    @property
    def linears(self) -> list[LinearRef]:
        """All linears of the blocks, in order of execution."""
        return [ref for block in self.blocks for ref in block.linears]

    @property
    def bytes(self) -> int:
        """Bytes of the whole model with the linears laid out at their ranks, and all else in 16 bits."""
        layout = self.recipe.layout
        stored = sum(layout.beside_bias(ref.has_bias).bytes(*ref.shape, self.ranks[ref.path]) for ref in self.linears)
        return stored + BYTES_PER_NUMBER * (self.parameters - sum(ref.size for ref in self.linears))


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
        units=recipe.structure.reorders_units,
        gradients=bool(taken) or recipe.has_metric,
    )


def make_plan(model: PreTrainedModel, recipe: Recipe, keep: float, weights: WeightSource | None = None) -> Plan:
    """Find the linears in the blocks of ``model`` and give each a rank: a uniform one, which an allocation replaces.

    Args:
        model: to be compressed; if the recipe says that linears share a basis, they are fused in it.
        recipe: what is to be done to it.
        keep: bytes of the linears to keep, as a share.
        weights: where the model's tensors are; in memory by default.

    Raises:
        EckartError: ``keep`` is not in (0, 1], or the smallest ranks allowed take more.
        UnsupportedModelError: the model has no blocks of linears that could be factored, or none whose output goes to
            a residual stream, if the objective looks at that.
    """
    check_keep(keep)
    weights = weights or ResidentWeights()
    try:
        expand(model, weights)
        blocks = blocks_for(recipe, model, weights)
        if recipe.sharing.fuses_all:
            fuse(model, fusable(blocks), weights)
            blocks = blocks_for(recipe, model, weights)
        return _uniform_plan(model, blocks, recipe, keep)
    except EckartError:
        take_back(model, weights)
        raise


def take_back(model: PreTrainedModel, weights: WeightSource) -> None:
    """Give a model that was not compressed the layers and parameters that it had before a plan was made."""
    unfuse(model, fused_layers(model), weights)
    contract(model, weights)


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
    return Plan(recipe, keep, blocks, ranks, parameters)
