"""Finds the linears that lose less with one basis than with one each, at the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from eckart import processes
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.fuse import Fusion, fusable, fusable_experts, fuse, unfuse
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
    """Fuse those linears, and return the model with the blocks that it then has, and their budgets.

    They are those of a group, or those of all experts of a block if these lose less than each expert by itself.

    Args:
        original: the model, its linears separate.
        recipe: whose objective says what is lost, and whose layout what it costs.
        budgets: with the share of its bytes, or the rank, that each group is cut to.
        progress: is called with (blocks done, blocks to do), over all measurements.
    """
    model, weights = original.model, original.weights
    groups, families = together(fusable(original.blocks), budgets), _families(original, recipe, budgets)
    ways = [[], groups, families] if families else [[], groups]
    apart: dict[str, float] = {}
    fused: dict[Fusion, float] = {}
    for number, fusions in enumerate(ways):
        fuse(model, fusions, weights)
        found, sizes = _found_again(original, recipe, budgets.keep) if number else (original, budgets)
        losses = processes.give(_losses(found, recipe, sizes, _part(progress, number, len(ways))))
        apart = apart or losses
        fused |= {fusion: losses[f"{fusion.linears[0].path}.joint"] for fusion in fusions}
        unfuse(model, fused_layers(model), weights)
    better = [fusion for fusion in groups if fused[fusion] <= sum(apart[ref.path] for ref in fusion.linears)]
    fuse(model, [*_best(better, families, apart, fused)], weights)
    return _found_again(original, recipe, budgets.keep)


def _families(original: BlockwiseModel, recipe: Recipe, budgets: Budgets) -> list[Fusion]:
    """Return what can be fused of experts, if the recipe can do with the outputs of one at a time.

    An allocation that looks at gradients cuts experts that hardly matter to almost nothing if they are apart. A loss at
    one share for all does not show what that is worth, and it is worth more than a basis in common.
    """
    by_gradients = recipe.allocation.needs & (Needs.FIRST_ORDER | Needs.CURVATURE)
    if recipe.objective.observes_outputs or recipe.allocation.truncates_outputs or by_gradients:
        return []
    return together(fusable_experts(original.blocks), budgets)


def _best(
    groups: Sequence[Fusion], families: Sequence[Fusion], apart: Mapping[str, float], fused: Mapping[Fusion, float]
) -> Iterator[Fusion]:
    """Yield the families that lose less than their linears do in other ways, and the groups that are not in those.

    Args:
        groups: those that lose less than their linears apart.
        families: linears of all experts of a block.
        apart: what each linear loses by itself, by its path.
        fused: what is lost by those that are fused.
    """
    taken: set[str] = set()
    for family in families:
        paths = {ref.path for ref in family.linears}
        inside = [group for group in groups if paths.issuperset(ref.path for ref in group.linears)]
        others = paths - {ref.path for group in inside for ref in group.linears}
        by_themselves = sum(apart[ref.path] for ref in family.linears if ref.path in others)
        if fused[family] <= sum(fused[group] for group in inside) + by_themselves:
            taken |= paths
            yield family
    yield from (group for group in groups if taken.isdisjoint(ref.path for ref in group.linears))


def _part(progress: Progress, number: int, count: int) -> Progress:
    """Return what reports the progress of one of several measurements as that of all."""
    return lambda done, total: progress(number * total + done, count * total)


def _losses(original: BlockwiseModel, recipe: Recipe, budgets: Budgets, progress: Progress) -> dict[str, float]:
    """Return what each linear of a model as it is now loses at its size."""
    metric = recipe.objective.output_metric
    request = Request(recipe.objective, Needs.SPECTRUM, metric, structure=recipe.structure)
    found = measure(original, request, progress)
    return {linear.path: _lost(linear, recipe.layout, budgets.size(linear.path)) for linear in found.linears}


def _found_again(original: BlockwiseModel, recipe: Recipe, keep: float) -> tuple[BlockwiseModel, Budgets]:
    found = targets_for(recipe, keep, original.model, original.weights, original.calibration)
    return replace(original, blocks=found.blocks), found.budgets


def _lost(linear: LayerStatistics, layout: Layout, size: Size) -> float:
    """Return the energy of the components that a linear loses at a size."""
    assert linear.energy is not None
    rank = size.rank if size.keep is None else layout.rank_of_share(*linear.shape, size.keep)
    return 0.0 if rank is None else float(linear.energy[rank:].sum())
