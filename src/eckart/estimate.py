"""Memory and time of a run, said before it starts: from shapes, and from a short timing on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor
from transformers import PreTrainedModel

from eckart.blocks import Block, Target, find_block_list
from eckart.calibration import Calibration
from eckart.calls import capture_calls
from eckart.device import host_memory, moment_device, synchronize
from eckart.objectives import Streams
from eckart.placement import placed
from eckart.plan import Plan
from eckart.recipe import Recipe

FLOAT32, FLOAT64 = 4, 8


@dataclass(frozen=True)
class Estimate:
    """What a run is expected to take: peak resident memory of the process in bytes, and seconds."""

    host_bytes: int
    seconds: float


def estimate(
    model: PreTrainedModel, recipe: Recipe, plan: Plan, calibration: Calibration | None, device: torch.device
) -> Estimate:
    """Return the expected memory and time; runs one batch through the first block, and one factorisation."""
    streams = recipe.objective.streams
    block = max(plan.blocks, key=lambda b: sum(t.out_features * t.in_features for g in b.groups for t in g.targets))
    seconds = len(plan.blocks) * _factorisation_seconds(block, recipe, device)
    if calibration is not None:
        seconds += len(plan.blocks) * _statistics_seconds(model, block, streams, plan.keep, calibration, device)
    return Estimate(host_memory() + _extra_bytes(model, block, streams, calibration), seconds)


def _extra_bytes(model: PreTrainedModel, block: Block, streams: Streams, calibration: Calibration | None) -> int:
    """Return the bytes that a run holds at once beyond the model itself."""
    both = streams is Streams.BOTH
    copies = FLOAT32 * sum(parameter.numel() for parameter in block.module.parameters()) * (2 if both else 1)
    widths = [group.targets[0].in_features for group in block.groups]
    largest = max(widths)
    solver = FLOAT64 * max(4 * largest**2 + 6 * t.out_features * t.in_features for g in block.groups for t in g.targets)
    if calibration is None:
        return copies + solver
    tokens = calibration.tokens.numel()
    width = int(model.get_input_embeddings().embedding_dim)
    # A stream is held while the next one is written; the embedding is widened while the first one is made.
    stream = FLOAT32 * tokens * width * (3 if both else 2)
    inputs = FLOAT32 * tokens * sum(widths) if both else 0
    observed = widths if streams is Streams.ORIGINAL else [largest]
    moments = FLOAT64 * sum(w**2 for w in observed) * (2 if both else 1)
    embedding = FLOAT32 * int(model.get_input_embeddings().weight.numel())
    return max(embedding + stream, copies + stream + inputs + moments + solver)


def _statistics_seconds(
    model: PreTrainedModel,
    block: Block,
    streams: Streams,
    keep: float,
    calibration: Calibration,
    device: torch.device,
) -> float:
    batches = list(calibration.batches())
    _, modules = find_block_list(model)
    with placed(model, device, skip=(*modules[1:], model.get_output_embeddings())), torch.no_grad():
        hidden, calls = capture_calls(model, modules, batches[0].to(device))
        forward = _seconds(lambda: calls[0](modules[0], hidden), device)
    tokens = hidden.shape[0] * hidden.shape[1]
    sizes = [sum(t.out_features * t.in_features for t in group.targets) for group in block.groups]
    widths = [group.targets[0].in_features for group in block.groups]
    sample = _random(tokens, max(widths)).to(device)
    product = _seconds(lambda: sample.T @ sample, device) / max(widths) ** 2
    # How far into the block the passes of the compressed stream run before they stop at each group, and the last one.
    depth = sum(sum(sizes[:index]) for index in range(len(sizes))) / sum(sizes) + 1
    passes = {Streams.ORIGINAL: 1.0, Streams.COMPRESSED: keep * depth, Streams.BOTH: 1 + keep * depth}[streams]
    moments = sum(width**2 for width in widths) * (2 if streams is Streams.BOTH else 1)
    return len(batches) * (passes * forward + moments * product)


def _factorisation_seconds(block: Block, recipe: Recipe, device: torch.device) -> float:
    place = moment_device(device)
    widths = [group.targets[0].in_features for group in block.groups]
    targets = [target for group in block.groups for target in group.targets]
    largest = max(targets, key=_svd_cost)
    size = min(max(widths), 768)
    square = _random(size, size).to(place, torch.float64)
    whitening = (
        _seconds(lambda: torch.linalg.eigh(square @ square.T), place) / size**3 if recipe.objective.needs_data else 0
    )
    scale = min(1.0, 768 / max(largest.shape))
    shape = [max(1, round(side * scale)) for side in largest.shape]
    matrix = _random(*shape).to(place, torch.float64)
    svd = _seconds(lambda: torch.linalg.svd(matrix, full_matrices=False), place) / (scale**3 * _svd_cost(largest))
    return whitening * sum(width**3 for width in widths) + svd * sum(_svd_cost(target) for target in targets)


def _svd_cost(target: Target) -> float:
    return float(target.out_features * target.in_features * min(target.shape))


def _random(*shape: int) -> Tensor:
    # With a generator of its own: an estimate must not move the global seed.
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    run()
    synchronize(device)
    start = perf_counter()
    run()
    synchronize(device)
    return perf_counter() - start
