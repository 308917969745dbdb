"""Makes the compressed model of a row, from what the rows share."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.compression.allocate import Allocated, allocate
from eckart.compression.callback import Callback
from eckart.compression.plan import Plan, make_plan
from eckart.compression.result import CompressionResult
from eckart.compression.walk import compress_blocks
from eckart.methods.allocation import Storage
from eckart.methods.precision import AnyPrecision
from eckart.methods.recipe import Recipe
from eckart.run.alike import estimate_for_all, host_limit
from eckart.sweep.case import Way, way_of
from eckart.sweep.statistics import Statistics

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Compressed:
    """A model that was made for a row.

    Attributes:
        model: a copy, in the dtype that it is stored in.
        ranks: by path of each target linear; None for one that is not factored.
        kept: stored bytes of the target linears over their dense 16-bit bytes.
    """

    model: PreTrainedModel
    ranks: dict[str, int | None]
    kept: float


def build(
    model: PreTrainedModel,
    recipe: Recipe,
    keep: float,
    statistics: Statistics,
    *,
    storage: Storage | None = None,
    embedding: AnyPrecision | None = None,
    memory_holds_streams: bool = True,
    callback: Callback | None = None,
) -> Compressed:
    """Return a compressed copy of ``model``, the same as ``eckart compress`` makes.

    Args:
        model: in evaluation mode; stays as it is.
        recipe: what to do.
        keep: bytes to keep, as a share.
        statistics: that were collected for the recipe.
        storage: from :meth:`Statistics.storage`, if it is known already. Not for what is made alone.
        embedding: how the tables of the vocabulary are stored, if not as the recipe says.
        memory_holds_streams: whether the streams of a walk of its own are held in memory, or in temporary files.
        callback: of that walk.

    Raises:
        EckartError: this recipe cannot be applied at this size, or to this model.
    """
    listener = callback or Callback()
    if storage is None and way_of(recipe) is not Way.ALONE:
        storage = statistics.storage(recipe, keep, listener.on_measurement)
    candidate = copy.deepcopy(model)
    scratch = ScratchSpace(memory_holds_streams)
    try:
        report = _walked(candidate, recipe, keep, statistics, storage, embedding, scratch, listener)
    finally:
        scratch.close()
    return Compressed(candidate, {layer.path: layer.rank for layer in report.layers}, report.keep)


def _walked(
    candidate: PreTrainedModel,
    recipe: Recipe,
    keep: float,
    statistics: Statistics,
    storage: Storage | None,
    embedding: AnyPrecision | None,
    scratch: ScratchSpace,
    callback: Callback,
) -> CompressionResult:
    """Compress a copy by a walk, after a measurement of its own if it is not known how linears are stored.

    Where all that the walk looks at was kept, it passes over no token, and nobody is told of it: that takes no time.
    """
    original, shared = statistics.original, way_of(recipe) is Way.TRUNCATED
    plan = make_plan(candidate, recipe, keep, None, statistics.original.calibration)
    plan = replace(plan, embedding=embedding or plan.embedding)
    own = BlockwiseModel(candidate, plan.blocks, ResidentWeights(), original.device, scratch, original.calibration)
    if storage is None:
        allocated = allocate(own, plan, callback.on_measurement)
    else:
        plan = replace(plan, ranks=storage.ranks, bases=storage.bases, sparsities=storage.sparsities)
        allocated = Allocated(own, plan, statistics.measurements(recipe))
    return compress_blocks(
        allocated.model,
        allocated.plan,
        allocated.measurements,
        inputs_kept=shared,
        recompute=not shared and _computes_twice(allocated.model, allocated.plan),
        callback=Callback() if shared else callback,
    )


def _computes_twice(model: BlockwiseModel, plan: Plan) -> bool:
    """Return whether the activations of a training would not fit if they were held."""
    places = (plan.recipe.preparation, plan.recipe.refinement, plan.recipe.distillation)
    trains = any(place.training is not None for place in places)
    return trains and estimate_for_all(model, plan, host_limit()).recompute
