"""Gives each linear its rank: measures what the recipe's allocation asks for, on the original model, and asks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.onload import WeightSource
from eckart.blocks.overridden_weights import OverriddenWeights
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.compression.factorise import Components
from eckart.compression.plan import Plan, shapes_of
from eckart.compression.sensitivity.iterative_truncation import stage
from eckart.compression.sensitivity.measure import Progress, measure
from eckart.compression.sensitivity.measurements import Measurements
from eckart.compression.sensitivity.request import request_of
from eckart.compression.sensitivity.sharing import share_by_loss
from eckart.compression.sensitivity.trials import trial_losses
from eckart.compression.sensitivity.truncation_points import train_truncation_points
from eckart.data.calibration import Calibration
from eckart.errors import CalibrationError
from eckart.methods.allocation import LayerStatistics, Learned, Needs, Search, ZeroSum
from eckart.methods.recipe import Recipe
from eckart.methods.sharing import SharedByLoss


@dataclass(frozen=True)
class Allocated:
    """Ranks, and what else was found on the way to them.

    Attributes:
        plan: with the ranks.
        weights: that are to be factored: the model's own, or those that a staged allocation ended with.
        metrics: second moment (m, m) of each linear's output gradients, by path, if the objective has an output metric.
        linears: the evidence.
        components: gives basis, dual and singular values of a linear, if its equation is solved already.
        block_metrics: second moment (d, d) of the gradients behind each block, by its path, if a metric was measured.
    """

    plan: Plan
    weights: WeightSource
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    linears: tuple[LayerStatistics, ...] = ()
    block_metrics: Mapping[str, Tensor] = field(default_factory=dict)
    components: Components | None = None


def allocate(
    model: PreTrainedModel,
    recipe: Recipe,
    plan: Plan,
    calibration: Calibration | None,
    *,
    device: torch.device,
    weights: WeightSource,
    scratch: ScratchSpace,
    progress: Progress = lambda done, total: None,
) -> Allocated:
    """Return the plan with the ranks that the recipe's allocation gives.

    Args:
        model: in evaluation mode.
        recipe: says what a component is, and how ranks are chosen.
        plan: the blocks, with ranks that do not count yet.
        calibration: the tokens; may be None if nothing looks at data.
        device: where blocks are run.
        weights: where the model's tensors are.
        scratch: where streams live.
        progress: is called with (steps done, steps to do).

    Raises:
        EckartError: the budget cannot be met.
        NonFiniteError: a weight, an activation or a gradient is NaN or infinite.
    """
    if not needs_measurement(recipe, plan.keep):
        return Allocated(plan, weights)
    if calibration is None and recipe.needs_data:
        raise CalibrationError(f"Recipe {recipe.name!r} looks at activations and needs calibration text.")
    original = BlockwiseModel(model, plan.blocks, weights, device, scratch, calibration)
    if isinstance(recipe.sharing, SharedByLoss):
        original = share_by_loss(original, recipe, plan.keep, progress)
        plan = replace(plan, blocks=list(original.blocks))
    if isinstance(recipe.allocation, ZeroSum) and recipe.allocation.stages > 1:
        measurements, corrected = stage(original, recipe, plan.keep, progress)
        ranks = recipe.allocation.ranks(measurements.linears, plan.keep, recipe.layout)
        # What stays dense goes back to its original weight.
        others = {path: tensor for path, tensor in corrected.items() if ranks[path] is not None}
        return Allocated(
            replace(plan, ranks=ranks),
            OverriddenWeights(weights, model, others),
            measurements.metrics,
            measurements.linears,
            measurements.block_metrics,
        )
    linears = shapes_of(plan.blocks)
    metrics: Mapping[str, Tensor] = {}
    block_metrics: Mapping[str, Tensor] = {}
    components: Components | None = None
    if recipe.allocation.needs & ~Needs.TRUNCATION_POINT or recipe.has_metric:
        trials = Needs.TRIALS in recipe.allocation.needs
        measurements = measure(original, request_of(recipe, keep_bases=trials or recipe.weighs_tokens), progress)
        linears, metrics, block_metrics = measurements.linears, measurements.metrics, measurements.block_metrics
        if recipe.weighs_tokens:
            components = measurements.components
        if isinstance(recipe.allocation, Search):
            linears = search_trials(original, recipe, measurements, progress)
    if isinstance(recipe.allocation, Learned):
        model_to_train = original.cropped(recipe.allocation.training_samples, recipe.allocation.training_length)
        positions = train_truncation_points(model_to_train, recipe.allocation, plan.keep, recipe.layout, progress)
        linears = tuple(replace(linear, truncation_point=positions[linear.path]) for linear in linears)
    ranks = recipe.allocation.ranks(linears, plan.keep, recipe.layout)
    return Allocated(replace(plan, ranks=ranks), weights, metrics, linears, block_metrics, components)


def needs_measurement(recipe: Recipe, keep: float) -> bool:
    """Return whether anything must be measured before the ranks are known; nothing is where all is kept."""
    by_loss = isinstance(recipe.sharing, SharedByLoss)
    return keep < 1 and bool(recipe.allocation.needs or recipe.has_metric or by_loss)


def search_trials(
    original: BlockwiseModel, recipe: Recipe, measurements: Measurements, progress: Progress
) -> tuple[LayerStatistics, ...]:
    """Return the evidence with the losses of all trials that a search asks for.

    Args:
        original: the model.
        recipe: with a search as its allocation.
        measurements: with the bases of the linears.
        progress: is called with (blocks done, blocks to do).
    """
    search, layout = recipe.allocation, recipe.layout
    assert isinstance(search, Search)
    ranks = {
        linear.path: sorted(
            {linear.layout(layout).rank_of_share(*linear.shape, share) or 0 for share in search.shares} - {0}
        )
        for linear in measurements.linears
    }
    sample = original.cropped(search.trial_samples, search.trial_length)
    losses = trial_losses(sample, measurements.solutions, ranks, progress)
    return tuple(replace(linear, trials=losses.get(linear.path, {})) for linear in measurements.linears)
