"""Makes the compressed model of a row, from what the rows share."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.discovery import Block, LinearRef
from eckart.blocks.hidden_units import put_in_order
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.compression.allocate import Allocated, allocate
from eckart.compression.callback import Callback
from eckart.compression.plan import make_plan
from eckart.compression.result import CompressionResult
from eckart.compression.walk import compress_blocks
from eckart.device import moment_device
from eckart.layers import Fit, weight_matrix
from eckart.maths.lowrank import Solution, Whitening
from eckart.methods.allocation import LayerStatistics
from eckart.methods.layout import dense_bytes
from eckart.methods.recipe import Recipe
from eckart.methods.sensitivity.layer_statistics import shapes_of
from eckart.methods.sensitivity.measurements import Measurements
from eckart.sweep.case import Way, way_of
from eckart.sweep.statistics import Ranks, Statistics


@dataclass(frozen=True)
class Compressed:
    """A model that was made for a row.

    Attributes:
        model: a copy, in the dtype that it is stored in.
        ranks: by path of each target linear; None for one that is not factored.
        kept: stored bytes of the target linears over their dense 16-bit bytes.
    """

    model: PreTrainedModel
    ranks: Ranks
    kept: float


def build(
    model: PreTrainedModel,
    recipe: Recipe,
    keep: float,
    statistics: Statistics,
    *,
    ranks: Ranks | None = None,
    memory_holds_streams: bool = True,
    callback: Callback | None = None,
) -> Compressed:
    """Return a compressed copy of ``model``, the same as ``eckart compress`` makes.

    Args:
        model: in evaluation mode; stays as it is.
        recipe: what to do.
        keep: bytes to keep, as a share.
        statistics: that were collected for the recipe.
        ranks: from :meth:`Statistics.ranks`, if they are known already. Not for what is made alone.
        memory_holds_streams: whether the streams of a walk of its own are held in memory, or in temporary files.
        callback: of that walk.

    Raises:
        EckartError: this recipe cannot be applied at this size, or to this model.
    """
    listener = callback or Callback()
    if ranks is None and way_of(recipe) is not Way.ALONE:
        ranks = statistics.ranks(recipe, keep, listener.on_measurement)
    if way_of(recipe) is Way.TRUNCATED:
        assert ranks is not None
        measurements, original = statistics.measurements(recipe), statistics.original
        made, ordered = truncated(original.model, original.blocks, recipe, ranks, measurements, original.device)
        return Compressed(made, ranks, kept_share(recipe, ranks, shapes_of(original.blocks), ordered))
    candidate = copy.deepcopy(model)
    scratch = ScratchSpace(memory_holds_streams)
    try:
        report = _walked(candidate, recipe, keep, statistics, ranks, scratch, listener)
    finally:
        scratch.close()
    return Compressed(candidate, {layer.path: layer.rank for layer in report.layers}, report.keep)


def truncated(
    model: PreTrainedModel,
    blocks: Sequence[Block],
    recipe: Recipe,
    ranks: Ranks,
    measurements: Measurements,
    device: torch.device,
) -> tuple[PreTrainedModel, set[str]]:
    """Return a copy of a model whose linears are replaced by their components of the original model.

    And the paths of the pivoted layers in it that hold no index.

    Args:
        model: stays as it is.
        blocks: of it.
        recipe: that looks at the original model only, and refines nothing.
        ranks: by path.
        measurements: with solutions and inputs, as :func:`eckart.sweep.case.request_for` asks for them.
        device: where layers are computed.
    """
    candidate, weights, ordered = copy.deepcopy(model), ResidentWeights(), set[str]()
    maker = _LayerMaker(recipe, measurements, moment_device(device))
    for block in blocks:
        module = candidate.get_submodule(block.path)
        with weights.onload(module, device) as onloaded, torch.no_grad():
            for ref in block.linears:
                if recipe.layout.changes(ranks[ref.path]):
                    linear, stored = module.get_submodule(ref.name), onloaded.dtype(f"{ref.name}.weight")
                    onloaded.replace(ref.name, maker.layer(linear, ref, ranks[ref.path], stored))
            ordered |= {f"{block.path}.{name}" for name in put_in_order(module, block.units).without_index}
    return candidate, ordered


def kept_share(
    recipe: Recipe, ranks: Ranks, linears: Sequence[LayerStatistics], ordered: Collection[str] = ()
) -> float:
    """Return the stored bytes of linears at their ranks, some without an index, over their dense 16-bit bytes."""
    kept = sum(linear.layout(recipe.layout).bytes(*linear.shape, ranks[linear.path]) for linear in linears)
    kept -= sum(recipe.structure.index_bytes(linear.shape[0]) for linear in linears if linear.path in ordered)
    return kept / sum(dense_bytes(*linear.shape) for linear in linears)


@dataclass(frozen=True)
class _LayerMaker:
    """Makes layers of the components that were found before."""

    recipe: Recipe
    measurements: Measurements
    device: torch.device

    def layer(self, linear: nn.Module, ref: LinearRef, rank: int | None, stored: torch.dtype) -> nn.Module:
        layout = self.recipe.layout
        weight = weight_matrix(linear).detach().to(self.device, torch.float64)
        fit = self._fit(weight, ref)
        if rank is None:
            return layout.whole(linear, weight, stored, Fit(weight, fit.inputs))
        if layout.structure.adds_to_base:
            return layout.fitted(linear, rank, stored, fit)
        components = self.measurements.components(ref.path)
        basis, dual, singular_values = (tensor.to(self.device, torch.float64) for tensor in components)
        solution, tokens = Solution(basis, dual, singular_values, weight), self.measurements.statistics(ref.path).tokens
        return layout.factored(linear, *layout.structure.truncated(solution, rank, tokens), stored, fit)

    def _fit(self, weight: Tensor, ref: LinearRef) -> Fit:
        pair = self.measurements.whitenings.get(ref.path)
        # Where none was kept, none is looked at, or the inputs are not known.
        whitening = (
            Whitening.identity(ref.in_features, self.device)
            if pair is None
            else Whitening(*(tensor.to(self.device) for tensor in pair))
        )
        metric = self.recipe.objective.output_metric
        root = None
        if metric is not None and self.recipe.structure.adds_to_base:  # else the components are known
            root = metric.root(self.measurements.metrics[ref.path].to(self.device, torch.float64))
        if not self.recipe.layout.affine:
            return Fit(weight, whitening, root)
        mean = self.measurements.means[ref.path].to(self.device)
        return Fit(weight, whitening, root, lambda product: (weight - product.to(weight)) @ mean)


def _walked(
    candidate: PreTrainedModel,
    recipe: Recipe,
    keep: float,
    statistics: Statistics,
    ranks: Ranks | None,
    scratch: ScratchSpace,
    callback: Callback,
) -> CompressionResult:
    """Compress a copy by a walk of its own, after a measurement of its own if it has no ranks."""
    original = statistics.original
    plan = make_plan(candidate, recipe, keep)
    own = BlockwiseModel(candidate, plan.blocks, ResidentWeights(), original.device, scratch, original.calibration)
    if ranks is None:
        allocated = allocate(own, plan, callback.on_measurement)
    else:
        allocated = Allocated(own, replace(plan, ranks=dict(ranks)), statistics.measurements(recipe))
    return compress_blocks(allocated.model, allocated.plan, allocated.measurements, callback=callback)
