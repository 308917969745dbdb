"""ZS-SVD's staging: truncate, correct along the gradient, measure and select again (arXiv 2602.02848, section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from eckart import processes
from eckart.blocks.backward import BackwardPass, Observe
from eckart.blocks.block import LinearRef
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.cached_tensors import CachedTensors
from eckart.blocks.overridden_weights import OverriddenWeights
from eckart.layers import weight_matrix
from eckart.methods.allocation.base import Allocation, Wanted
from eckart.methods.allocation.trials import truncated_weight
from eckart.methods.sensitivity.measure import measure
from eckart.methods.sensitivity.measurements import Measurements

Ranks = Mapping[str, int | None]


def truncate_in_stages(
    original: BlockwiseModel, allocation: Allocation, measured: Measurements, wanted: Wanted
) -> Measurements:
    """Return the measurements of the last stage, with the weights that they were made on.

    In each stage the whole budget is allocated anew. Between two stages each truncated weight ``W'`` of a linear with
    original weight W is moved by ``<g, W - W'> / <g, g> g``, g being the loss's gradient at W': the shortest step with
    the same first-order change of the loss as the way back to W. All gradients are taken at the same truncated model.

    Args:
        original: the model.
        allocation: chooses the ranks of each stage; there are as many as it walks through the model.
        measured: in the first stage, on the original weights, with bases.
        wanted: the size.
    """
    blocks = len(original.blocks)
    current = original
    corrected: Mapping[str, Tensor] = {}
    for number in range(1, allocation.walks):

        def advanced(done: int, of: int, offset: int = number * blocks) -> None:
            wanted.progress(offset + done, allocation.walks * blocks)

        ranks = allocation.ranks_within(measured.linears, wanted.budgets, wanted.layout)
        truncated = _truncated(current, measured, ranks, corrected, number - 1)
        corrected = _corrected(original, truncated, number - 1)
        current = replace(original, weights=OverriddenWeights(original.weights, original.model, corrected))
        last = number == allocation.walks - 1
        measured = measure(current, replace(wanted.request, keep_bases=not last), advanced)
    return replace(measured, weights=dict(corrected))


def _truncated(
    current: BlockwiseModel, measurements: Measurements, ranks: Ranks, corrected: Mapping[str, Tensor], number: int
) -> CachedTensors:
    """Return the truncated weights of the linears that have a rank; the others go back to their original weight."""
    truncated = CachedTensors(current.scratch.cache(f"truncated-{number}", torch.float32))
    for block in current.blocks:
        with current.weights.onload(block.module, current.device):
            for ref in block.linears:
                rank = ranks[ref.path]
                if rank is None:
                    continue
                # A correction can be smaller than the rounding of the dtype that weights are onloaded in.
                weight = corrected.get(ref.path)
                if weight is None:
                    weight = weight_matrix(block.module.get_submodule(ref.name)).detach().float().cpu()
                basis, dual = measurements.solutions[ref.path]
                truncated.add(ref.path, truncated_weight(weight, basis[:, :rank], dual[:, :rank]))
    return truncated


def _corrected(original: BlockwiseModel, truncated: CachedTensors, number: int) -> CachedTensors:
    """Return the truncated weights, each moved along its gradient towards the original one's loss."""
    overlay = OverriddenWeights(original.weights, original.model, truncated)
    # As published, the gradient of one calibration sequence.
    model = replace(original.cropped(1, None), weights=overlay)
    streams = model.forward()
    gradient = BackwardPass.of_loss(model, streams)
    corrected = CachedTensors(original.scratch.cache(f"corrected-{number}", torch.float32))
    for index in reversed(range(len(original.blocks))):
        block = original.blocks[index]
        sums: dict[LinearRef, Tensor] = {}
        with overlay.onload(block.module, original.device):
            gradient.step(index, _adding(sums))
        found = processes.add_found([sums.get(ref) for ref in block.linears], torch.device("cpu"))
        with original.weights.onload(block.module, original.device):
            for ref, summed in zip(block.linears, found, strict=True):
                if ref.path not in truncated:
                    continue
                teacher = weight_matrix(block.module.get_submodule(ref.name)).detach().float().cpu()
                weight = truncated[ref.path]
                corrected.add(ref.path, weight + projected(teacher - weight, summed))
    streams.delete_all()
    gradient.close()
    return corrected


def _adding(sums: dict[LinearRef, Tensor]) -> Observe:
    def add(ref: LinearRef, inputs: Tensor, at_output: Tensor | None, asked: slice | None) -> None:
        if at_output is None:
            return
        product = (at_output.float().T @ inputs.float()).cpu()
        if asked is not None:
            sums.setdefault(ref, torch.zeros(ref.shape))[asked] += product
        else:
            sums[ref] = product + sums[ref] if ref in sums else product

    return add


def projected(difference: Tensor, gradient: Tensor | None) -> Tensor:
    """Return ``<g, D> / <g, g> g``, the shortest step that changes the loss, to first order, as D does; 0 if g is 0."""
    if gradient is None or not gradient.any():
        return torch.zeros_like(difference)
    gradient = gradient.double()
    # The length of a gradient can square to nothing; its direction is all that counts.
    direction = gradient / gradient.norm()
    step: Tensor = (direction * difference).sum() * direction
    return step.to(difference.dtype)
