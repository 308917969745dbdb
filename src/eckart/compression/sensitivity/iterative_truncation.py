"""ZS-SVD's staging: truncate, correct along the gradient, measure and select again (arXiv 2602.02848, section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from eckart.blocks.blockwise_model import Observe, OriginalModel
from eckart.blocks.cached_tensors import SpooledTensors
from eckart.blocks.discovery import Target
from eckart.blocks.overridden_weights import OverlaidWeights
from eckart.compression.sensitivity.measure import Progress, measure
from eckart.compression.sensitivity.measurements import Profile
from eckart.compression.sensitivity.request import request_of
from eckart.compression.sensitivity.trials import truncated_weight
from eckart.layers import weight_matrix
from eckart.methods.allocation import ZeroSum
from eckart.methods.recipe import Recipe

Ranks = Mapping[str, int | None]


def stage(
    original: OriginalModel, recipe: Recipe, keep: float, progress: Progress
) -> tuple[Profile, dict[str, Tensor]]:
    """Return the profile of the last stage, and the weights that it was measured on, by path.

    In each stage the whole budget is allocated anew. Between two stages each truncated weight ``W'`` of a linear with
    original weight W is moved by ``<g, W - W'> / <g, g> g``, g being the loss's gradient at W': the shortest step with
    the same first-order change of the loss as the way back to W. All gradients are taken at the same truncated model.

    Args:
        original: the model.
        recipe: with a zero-sum allocation.
        keep: bytes to keep, as a share.
        progress: is called with (blocks done, blocks to do), over all stages.
    """
    allocation = recipe.allocation
    assert isinstance(allocation, ZeroSum)
    total = allocation.stages * len(original.blocks)
    current = original
    corrected: Mapping[str, Tensor] = {}
    for number in range(allocation.stages):

        def advanced(done: int, blocks: int, offset: int = number * len(original.blocks)) -> None:
            progress(offset + done, total)

        last = number == allocation.stages - 1
        profile = measure(current, request_of(recipe, keep_bases=not last), advanced)
        if last:
            break
        ranks = allocation.ranks(profile.linears, keep, recipe.layout)
        truncated = _truncated(current, profile, ranks, corrected, number)
        corrected = _corrected(original, truncated, number)
        current = replace(original, weights=OverlaidWeights(original.weights, original.model, corrected))
    return profile, dict(corrected)


def _truncated(
    current: OriginalModel, profile: Profile, ranks: Ranks, corrected: Mapping[str, Tensor], number: int
) -> SpooledTensors:
    """Return the truncated weights of the linears that have a rank; the others go back to their original weight."""
    truncated = SpooledTensors(current.workspace.spool(f"truncated-{number}", torch.float32))
    for block in current.blocks:
        with current.weights.lend(block.module, current.device):
            for target in block.targets:
                rank = ranks[target.path]
                if rank is None:
                    continue
                # A correction can be smaller than the rounding of the dtype that weights are lent in.
                weight = corrected.get(target.path)
                if weight is None:
                    weight = weight_matrix(block.module.get_submodule(target.name)).detach().float().cpu()
                basis, dual = profile.solutions[target.path]
                truncated.add(target.path, truncated_weight(weight, basis[:, :rank], dual[:, :rank]))
    return truncated


def _corrected(original: OriginalModel, truncated: SpooledTensors, number: int) -> SpooledTensors:
    """Return the truncated weights, each moved along its gradient towards the original one's loss."""
    overlay = OverlaidWeights(original.weights, original.model, truncated)
    # As published, the gradient of one calibration sequence.
    model = replace(original.cropped(1, None), weights=overlay)
    streams = model.forward()
    gradient, _ = model.loss_gradient(streams[-1], None)
    corrected = SpooledTensors(original.workspace.spool(f"corrected-{number}", torch.float32))
    for index in reversed(range(len(original.blocks))):
        block = original.blocks[index]
        sums: dict[Target, Tensor] = {}
        with overlay.lend(block.module, original.device):
            gradient = model.backward(index, streams[index], gradient, "", _adding(sums))
        with original.weights.lend(block.module, original.device):
            for target in (target for target in block.targets if target.path in truncated):
                teacher = weight_matrix(block.module.get_submodule(target.name)).detach().float().cpu()
                weight = truncated[target.path]
                corrected.add(target.path, weight + projected(teacher - weight, sums.get(target)))
    for stream in (*streams, gradient):
        stream.delete()
    return corrected


def _adding(sums: dict[Target, Tensor]) -> Observe:
    def add(target: Target, inputs: Tensor, at_output: Tensor | None) -> None:
        if at_output is None:
            return
        product = (at_output.float().T @ inputs.float()).cpu()
        sums[target] = product + sums[target] if target in sums else product

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
