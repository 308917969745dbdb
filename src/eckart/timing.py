"""Short timings on this machine, from which the time of a run is told beforehand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter

import torch
from torch import Tensor, nn

from eckart.blocks import Block, Group
from eckart.device import moment_device, synchronize
from eckart.factorise import Factoriser
from eckart.moments import Moments
from eckart.objectives import Streams
from eckart.plan import Plan
from eckart.recipe import Recipe

LARGEST_SIDE = 1536  # of a matrix that is factored for timing; larger ones are scaled by their operations


def factorisation_seconds(block: Block, plan: Plan, recipe: Recipe, device: torch.device) -> float:
    """Return the seconds that the factorisations of a block will take, by doing one of each shape.

    Args:
        block: whose linears are factored.
        plan: with their ranks.
        recipe: its objective has costs of its own.
        device: where the block will be.
    """
    solver = Factoriser(recipe, plan, moment_device(device))
    known: dict[tuple[int, ...], float] = {}
    return sum(_group_seconds(group, solver, known) for group in block.groups)


def _group_seconds(group: Group, solver: Factoriser, known: dict[tuple[int, ...], float]) -> float:
    layout, ranks = solver.recipe.layout, {target: solver.plan.ranks[target.path] for target in group.targets}
    if not any(layout.changes(rank) for rank in ranks.values()):
        return 0.0
    width = group.targets[0].in_features
    size = min(width, LARGEST_SIDE)
    objective = solver.recipe.objective
    moments = _random_moments(size, solver.recipe, solver.device)
    whiten = partial(objective.whitening, moments, size, solver.device)
    if (width,) not in known:
        known[(width,)] = seconds_of(whiten, solver.device) * (width / size) ** 3
    seconds, whitening = known[(width,)], whiten()
    for target, rank in ranks.items():
        if not layout.changes(rank):
            continue
        if target.shape not in known:
            shape = (max(2, min(target.out_features * size // width, LARGEST_SIDE)), size)
            weight = random_matrix(*shape).to(solver.device, torch.float64)
            small = None if rank is None else max(1, rank * min(shape) // min(target.shape))
            projectors = weight @ weight.T if objective.observes_outputs else None
            linear = nn.Linear(shape[1], shape[0], bias=False, device=solver.device)
            replace = partial(
                solver.layer, linear, weight, moments, whitening, small, torch.float32, projectors=projectors
            )
            once = seconds_of(replace, solver.device)
            known[target.shape] = once * _svd_operations(target.shape) / _svd_operations(shape)
        seconds += known[target.shape]
    return seconds


def _random_moments(size: int, recipe: Recipe, device: torch.device) -> Moments | None:
    if not recipe.objective.needs_data:
        return None
    moments = Moments.zeros(size, paired=recipe.objective.streams is Streams.BOTH, device=device)
    tokens = random_matrix(2 * size, size).to(device)
    moments.add(tokens, tokens + 0.1 if moments.shift is not None else None)
    return moments


def _svd_operations(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1] * min(shape)


def random_matrix(rows: int, columns: int) -> Tensor:
    """Return normally distributed numbers, (rows, columns) float32, without moving the global seed."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the second of two runs: the first one allocates and loads libraries."""
    run()
    synchronize(device)
    start = perf_counter()
    run()
    synchronize(device)
    return perf_counter() - start
