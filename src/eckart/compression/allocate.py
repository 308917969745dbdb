"""Gives each linear its rank: measures what the recipe's allocation asks for, on the original model, and asks it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from eckart import processes
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.overridden_weights import OverriddenWeights
from eckart.compression.embedding import losses_of_tables
from eckart.compression.plan import Plan
from eckart.compression.request import request_for_walk, request_of
from eckart.compression.share_by_loss import share_by_loss
from eckart.errors import CalibrationError
from eckart.methods.allocation.base import OwnMeasurement, Storage, Wanted
from eckart.methods.sensitivity.layer_statistics import shapes_of
from eckart.methods.sensitivity.measure import Progress, measure
from eckart.methods.sensitivity.measurements import Measurements


@dataclass(frozen=True)
class Allocated:
    """Ranks, and what else was found on the way to them.

    Attributes:
        model: whose weights are to be factored: its own, or those that an allocation ended with.
        plan: with the ranks.
        measurements: of the original model.
    """

    model: BlockwiseModel
    plan: Plan
    measurements: Measurements


def allocate(model: BlockwiseModel, plan: Plan, progress: Progress = lambda done, total: None) -> Allocated:
    """Return the plan with the ranks that the recipe's allocation gives.

    Args:
        model: the original one.
        plan: the recipe and the blocks, with ranks that do not count yet.
        progress: is called with (steps done, steps to do).

    Raises:
        EckartError: the budget cannot be met.
        NonFiniteError: a weight, an activation or a gradient is NaN or infinite.
    """
    recipe = plan.recipe
    if not needs_measurement(plan):
        return Allocated(model, plan, Measurements(shapes_of(plan.blocks)))
    if model.calibration is None and recipe.needs_data:
        raise CalibrationError(f"Recipe {recipe.name!r} looks at activations and needs calibration text.")
    if recipe.sharing.measures:
        model, budgets = share_by_loss(model, recipe, plan.budgets, progress)
        plan = replace(plan, blocks=list(model.blocks), own=budgets.own)
    allocation, request = recipe.allocation, request_for_walk(recipe)
    measured = Measurements(shapes_of(plan.blocks))
    if not request.is_empty:
        measured = measure(model, request, lambda done, total: progress(done, total * allocation.walks))
    if plan.budgets.chooses:
        measured = allocation.measure(model, measured, Wanted(plan.budgets, recipe.layout, request, progress))
    if plan.shares:
        plan = _with_tables(model, plan, measured, progress)
    storage = allocation.storage_within(measured.linears, plan.budgets, recipe.layout)
    chosen = Storage.model_validate(processes.give(storage.model_dump(mode="json")))
    # What stays dense goes back to its original weight.
    others = {path: weight for path, weight in measured.weights.items() if chosen.ranks[path] is not None}
    if others:
        model = replace(model, weights=OverriddenWeights(model.weights, model.model, others))
    outlook = chosen.outlook
    if outlook is not None and plan.embedding_loss is not None:
        outlook = outlook.beside(plan.embedding_loss)
    plan = replace(plan, ranks=chosen.ranks, bases=chosen.bases, sparsities=chosen.sparsities, outlook=outlook)
    return Allocated(model, plan, measured)


def _with_tables(model: BlockwiseModel, plan: Plan, measured: Measurements, progress: Progress) -> Plan:
    """Return the plan with that precision of the tables with which all of the model loses least in its size."""
    assert plan.vocabulary is not None
    precisions = [precision for precision, _ in plan.shares]
    losses = losses_of_tables(model, plan.vocabulary, precisions, progress)
    best: tuple[float, Plan] | None = None
    for (precision, keep), loss in zip(plan.shares, losses, strict=True):
        tried = replace(plan, keep=keep, embedding=precision, embedding_loss=loss)
        found = plan.recipe.allocation.storage_within(measured.linears, tried.budgets, plan.recipe.layout)
        total = loss + (0.0 if found.outlook is None else found.outlook.loss)
        if best is None or total < best[0]:
            best = total, tried
    assert best is not None
    return best[1]


def needs_measurement(plan: Plan) -> bool:
    """Return whether anything must be measured before the ranks are known; nothing is where all is kept."""
    recipe = plan.recipe
    measures = recipe.allocation.own_measurement is not OwnMeasurement.NONE or recipe.sharing.measures
    asks = not request_of(recipe).is_empty
    return (plan.budgets.chooses and measures) or (plan.budgets.factors and asks)
