"""Finds the groups of linears that lose less with one basis than with one each, at the same bytes."""

from __future__ import annotations

from dataclasses import replace

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.fuse import fusable, fuse, unfuse
from eckart.compression.plan import targets_for
from eckart.compression.targets import together
from eckart.layers import fused_layers
from eckart.methods.allocation import Budgets, LayerStatistics, Needs
from eckart.methods.layout import Layout
from eckart.methods.recipe import Recipe
from eckart.methods.sensitivity.measure import Progress, measure
from eckart.methods.sensitivity.request import Request
from eckart.methods.targets import Size


def share_by_loss(
    original: BlockwiseModel, recipe: Recipe, budgets: Budgets, progress: Progress
) -> tuple[BlockwiseModel, Budgets]:
    """Join the linears of those groups, and return the model with the blocks that it then has, and their budgets.

    Args:
        original: the model, its linears separate.
        recipe: whose objective says what is lost, and whose layout what it costs.
        budgets: with the share of its bytes, or the rank, that each group is cut to.
        progress: is called with (blocks done, blocks to do), over both measurements.
    """
    metric = recipe.objective.output_metric
    request = Request(recipe.objective, Needs.SPECTRUM, metric, structure=recipe.structure)
    total = 2 * len(original.blocks)
    apart = measure(original, request, lambda done, _: progress(done, total))
    fuse(original.model, together(fusable(original.blocks), budgets), original.weights)
    joined, sizes = _found_again(original, recipe, budgets.keep)
    joint = measure(joined, request, lambda done, _: progress(total // 2 + done, total))
    groups = fused_layers(original.model)
    lost = {linear.path: _lost(linear, recipe.layout, budgets.size(linear.path)) for linear in apart.linears}
    lost |= {linear.path: _lost(linear, recipe.layout, sizes.size(linear.path)) for linear in joint.linears}
    worse = [first for first, paths in groups.items() if lost[f"{first}.joint"] > sum(lost[path] for path in paths)]
    unfuse(original.model, worse, original.weights)
    return _found_again(original, recipe, budgets.keep)


def _found_again(original: BlockwiseModel, recipe: Recipe, keep: float) -> tuple[BlockwiseModel, Budgets]:
    found = targets_for(recipe, keep, original.model, original.weights, original.calibration)
    return replace(original, blocks=found.blocks), found.budgets


def _lost(linear: LayerStatistics, layout: Layout, size: Size) -> float:
    """Return the energy of the components that a linear loses at a size."""
    assert linear.energy is not None
    rank = size.rank if size.keep is None else layout.rank_of_share(*linear.shape, size.keep)
    return 0.0 if rank is None else float(linear.energy[rank:].sum())
