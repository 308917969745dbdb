"""Finds the groups of linears that lose less with one basis than with one each, at the same bytes."""

from __future__ import annotations

from dataclasses import replace

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.fuse import fusable, fuse, unfuse
from eckart.compression.plan import blocks_for
from eckart.layers import fused_layers
from eckart.methods.allocation import LayerStatistics, Needs
from eckart.methods.layout import Layout
from eckart.methods.recipe import Recipe
from eckart.methods.sensitivity.measure import Progress, measure
from eckart.methods.sensitivity.request import Request


def share_by_loss(original: BlockwiseModel, recipe: Recipe, keep: float, progress: Progress) -> BlockwiseModel:
    """Join the linears of those groups, and return the model with the blocks that it then has.

    Args:
        original: the model, its linears separate.
        recipe: whose objective says what is lost, and whose layout what it costs.
        keep: share of its bytes that each group is cut to.
        progress: is called with (blocks done, blocks to do), over both measurements.
    """
    metric = recipe.objective.output_metric
    request = Request(recipe.objective, Needs.SPECTRUM, metric, structure=recipe.structure)
    total = 2 * len(original.blocks)
    apart = measure(original, request, lambda done, _: progress(done, total))
    fuse(original.model, fusable(original.blocks), original.weights)
    joined = _found_again(original, recipe)
    together = measure(joined, request, lambda done, _: progress(total // 2 + done, total))
    groups = fused_layers(original.model)
    lost = {linear.path: _lost(linear, recipe.layout, keep) for linear in (*apart.linears, *together.linears)}
    worse = [first for first, paths in groups.items() if lost[f"{first}.joint"] > sum(lost[path] for path in paths)]
    unfuse(original.model, worse, original.weights)
    return _found_again(original, recipe)


def _found_again(original: BlockwiseModel, recipe: Recipe) -> BlockwiseModel:
    return replace(original, blocks=blocks_for(recipe, original.model, original.weights, original.calibration))


def _lost(linear: LayerStatistics, layout: Layout, keep: float) -> float:
    """Return the energy of the components that a linear loses at a share of its bytes."""
    assert linear.energy is not None
    rank = layout.rank_of_share(*linear.shape, keep)
    return 0.0 if rank is None else float(linear.energy[rank:].sum())
