"""Short timings on this machine, from which the time of a run is told beforehand."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from eckart.blocks.block import Block, Group, LinearRef
from eckart.compression.factorise import Factoriser
from eckart.compression.plan import Plan
from eckart.device import moment_device
from eckart.layers.linear import empty_linear
from eckart.maths.lowrank import Solution, solve
from eckart.maths.moments import Moments
from eckart.maths.stopwatch import random_matrix, seconds_of
from eckart.maths.whitening import Whitening
from eckart.methods.metric import Fisher
from eckart.methods.objectives import InputSource
from eckart.methods.recipe import Recipe

LARGEST_SIDE = 1536  # of a matrix that is factored for timing; larger ones are scaled by their operations


def factorisation_seconds(block: Block, plan: Plan, device: torch.device) -> float:
    """Return the seconds that the factorisations of a block will take, by doing one of each shape.

    Args:
        block: whose linears are factored.
        plan: with their ranks, and the recipe.
        device: where the block will be.
    """
    solver = Factoriser(plan.recipe, plan, moment_device(device))
    known: dict[tuple[int, ...], float] = {}
    return sum(_group_seconds(group, solver, known) for group in block.groups)


def solution_seconds(block: Block, recipe: Recipe, device: torch.device) -> float:
    """Return the seconds that solving the equation for all linears of a block will take before ranks are known.

    Args:
        block: whose linears they are.
        recipe: its objective has costs of its own.
        device: where the block will be.
    """
    objective, place = recipe.objective, moment_device(device)
    known: dict[tuple[int, ...], float] = {}
    seconds = 0.0
    for group in block.groups:
        width = group.linears[0].in_features
        size = min(width, LARGEST_SIDE)
        whiten = partial(objective.whitening, _random_moments(size, recipe, place), size, place)
        if (width,) not in known:
            known[(width,)] = seconds_of(whiten, place) * (width / size) ** 3
        # Where tokens are weighed by gradients, each linear has weights of its own.
        seconds += known[(width,)] * (len(group.linears) if recipe.weighs_tokens else 1)
        for ref in group.linears:
            if ref.shape not in known:
                weight = _random_weight(ref, size, place)
                solving = partial(_solve, whiten(), weight, objective.output_metric)
                known[ref.shape] = seconds_of(solving, place) * _growth(ref.shape, weight)
            seconds += known[ref.shape]
    return seconds


def _solve(whitening: Whitening, weight: Tensor, metric: Fisher | None) -> Solution:
    return solve(whitening, None, weight, None if metric is None else metric.root(weight @ weight.T))


def _group_seconds(group: Group, solver: Factoriser, known: dict[tuple[int, ...], float]) -> float:
    layout, ranks = solver.recipe.layout, {ref: solver.plan.ranks[ref.path] for ref in group.linears}
    if not any(layout.changes(rank) for rank in ranks.values()):
        return 0.0
    width = group.linears[0].in_features
    size = min(width, LARGEST_SIDE)
    objective, solved = solver.recipe.objective, solver.recipe.weighs_tokens
    moments = _random_moments(size, solver.recipe, solver.device)
    whiten = partial(objective.whitening, moments, size, solver.device)
    if (width,) not in known:
        known[(width,)] = 0.0 if solved else seconds_of(whiten, solver.device) * (width / size) ** 3
    seconds, whitening = known[(width,)], None if solved else whiten()
    for ref, rank in ranks.items():
        if not layout.changes(rank):
            continue
        if ref.shape not in known:
            weight = _random_weight(ref, size, solver.device)
            small = None if rank is None else max(1, rank * min(weight.shape) // min(ref.shape))
            projectors = weight @ weight.T if objective.observes_outputs else None
            solution = None
            if solved:
                basis = torch.linalg.qr(weight)[0]
                solution = Solution(basis, basis, torch.ones_like(basis[0]), weight)
            linear = empty_linear(weight.shape[1], weight.shape[0], bias=False, device=solver.device)
            replace = partial(
                solver.layer,
                linear,
                weight,
                solver.statistics_of(moments, whitening),
                small,
                torch.bfloat16,  # as most are stored: rounding to it takes its time, too
                projectors=projectors,
                solution=solution,
            )
            known[ref.shape] = seconds_of(replace, solver.device) * _growth(ref.shape, weight)
        seconds += known[ref.shape]
    return seconds


def _random_weight(ref: LinearRef, width: int, device: torch.device) -> Tensor:
    """Return a float64 matrix of about the shape of a linear whose inputs are so many, none of its sides too large."""
    rows = max(2, min(ref.out_features * width // ref.in_features, LARGEST_SIDE))
    return random_matrix(rows, width).to(device, torch.float64)


def _growth(shape: tuple[int, int], weight: Tensor) -> float:
    """Return how much longer a decomposition takes than that of a smaller weight."""
    return _svd_operations(shape) / _svd_operations((weight.shape[0], weight.shape[1]))


def _random_moments(size: int, recipe: Recipe, device: torch.device) -> Moments | None:
    if not recipe.objective.needs_data:
        return None
    moments = Moments.zeros(size, paired=recipe.objective.input_source is InputSource.BOTH, device=device)
    tokens = random_matrix(2 * size, size).to(device)
    moments.add(tokens, tokens + 0.1 if moments.shift is not None else None)
    return moments


def _svd_operations(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1] * min(shape)
