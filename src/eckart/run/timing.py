"""Short timings on this machine, from which the time of a run is told beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from eckart.blocks.block import Block, LinearRef
from eckart.compression.factorise import Factoriser
from eckart.compression.plan import Plan
from eckart.compression.sketched import SketchedSolver
from eckart.device import moment_device
from eckart.layers.linear import empty_linear
from eckart.maths.lowrank import Solution, solve
from eckart.maths.moments import Moments, relative_error
from eckart.maths.narrowing import greedy_units, refit_columns
from eckart.maths.stopwatch import random_matrix, seconds_of
from eckart.maths.whitening import Whitening
from eckart.methods.objectives import InputSource
from eckart.methods.recipe import Recipe

LARGEST_SIDE = 1536  # of a square matrix that is factored for timing; larger ones are scaled by their operations
MOST_ROWS = 3  # for each column of a larger one: a root is looked for where there are more rows than columns


def factorisation_seconds(block: Block, plan: Plan, device: torch.device) -> float:
    """Return the seconds that the factorisations of a block will take, by doing one of each shape.

    Args:
        block: whose linears are factored.
        plan: with their ranks, and the recipe.
        device: where the block will be.
    """
    factoriser = Factoriser(plan.recipe, plan, moment_device(device))
    timed = _Timed(plan.recipe, factoriser.device)
    seconds = 0.0
    for group in block.groups:
        refs = [ref for ref in group.linears if plan.changes(ref.path)]
        if plan.recipe.pairs.narrows:  # what is behind a width that shrinks takes nearly all of the time
            refs = [ref for ref in refs if plan.parts[ref.path].side == "inputs"]
            seconds += timed.seconds(refs, partial(_narrow, plan))
        else:
            seconds += timed.seconds(refs, partial(_factor, factoriser))
    return seconds


def solution_seconds(block: Block, recipe: Recipe, device: torch.device) -> float:
    """Return the seconds that solving the equation for all linears of a block will take before ranks are known.

    Args:
        block: whose linears they are.
        recipe: its objective has costs of its own.
        device: where the block will be.
    """
    timed = _Timed(recipe, moment_device(device))
    # Where tokens are weighed by gradients, each linear has weights of its own.
    groups = [[ref] for ref in block.linears] if recipe.weighs_tokens else [group.linears for group in block.groups]
    return sum(timed.seconds(refs, partial(_solve, recipe)) for refs in groups)


@dataclass(frozen=True)
class _Example:
    """Random numbers in the place of a linear, and of sums over its inputs."""

    ref: LinearRef
    weight: Tensor
    moments: Moments | None
    whitening: Whitening


@dataclass
class _Timed:
    """What was timed: each shape of a linear once, and the root of the inputs' moment once for each width.

    Attributes:
        roots: seconds by the width of the inputs.
        linears: by the shape of a linear, seconds without the root, and whether anybody asked for that.
    """

    recipe: Recipe
    device: torch.device
    roots: dict[int, float] = field(default_factory=dict)
    linears: dict[tuple[int, int], tuple[float, bool]] = field(default_factory=dict)

    def seconds(self, refs: Sequence[LinearRef], run: Callable[[_Example], object]) -> float:
        """Return the seconds of what is done to linears that share an input."""
        found = [self._linear(ref, run) for ref in refs]
        root = self._root(refs[0].in_features) if any(asked for _, asked in found) else 0.0
        return root + sum(seconds for seconds, _ in found)

    def _linear(self, ref: LinearRef, run: Callable[[_Example], object]) -> tuple[float, bool]:
        if ref.shape not in self.linears:
            size = min(ref.in_features, LARGEST_SIDE)
            moments = _random_moments(size, self.recipe, self.device)
            whitening = self.recipe.objective.whitening(moments, size, self.device)
            example = _Example(ref, _random_weight(ref, size, self.device), moments, whitening)
            # The second of two runs is timed, in which a root is there that the first one asked for.
            seconds = seconds_of(partial(run, example), self.device) * _growth(ref.shape, example.weight)
            self.linears[ref.shape] = seconds, whitening.is_factored
        return self.linears[ref.shape]

    def _root(self, width: int) -> float:
        if width not in self.roots:
            size = min(width, LARGEST_SIDE)
            whiten = partial(self.recipe.objective.whitening, _random_moments(size, self.recipe, self.device), size)
            seconds = seconds_of(lambda: whiten(self.device).root, self.device)
            self.roots[width] = seconds * (width / size) ** 3
        return self.roots[width]


def _solve(recipe: Recipe, example: _Example) -> Solution:
    """Do what a measurement does to one linear."""
    remainder = recipe.structure.fitter.remainder(example.weight, example.whitening)
    metric = recipe.objective.output_metric
    root = None if metric is None else metric.root(example.weight @ example.weight.T)
    return solve(example.whitening, None, remainder, root)


def _factor(factoriser: Factoriser, example: _Example) -> float:
    """Do what a walk does to one linear, and return its error."""
    recipe, ref, weight = factoriser.recipe, example.ref, example.weight
    rank = factoriser.plan.ranks[ref.path]
    solution = small = sketch = None
    if rank is not None:
        small = max(1, rank * min(weight.shape) // min(ref.shape))
        sketch = recipe.solver.sketch(ref.shape, rank, ref.path)
    if sketch is not None:
        sketch = replace(sketch, columns=max(small or 1, sketch.columns * min(weight.shape) // min(ref.shape)))
    if recipe.solves_once:  # in the measurement
        basis = torch.linalg.qr(weight)[0]
        solution = Solution(basis, basis, torch.ones_like(basis[0]), weight)
    inputs = factoriser.statistics_of(example.moments, None if recipe.solves_once else example.whitening)
    layer = factoriser.layer(
        empty_linear(weight.shape[1], weight.shape[0], bias=False, device=factoriser.device),
        weight,
        inputs,
        small,
        torch.bfloat16,  # as most are stored: rounding to it takes its time, too
        layout=factoriser.plan.layout(ref.path),
        projectors=weight @ weight.T if recipe.objective.observes_outputs else None,
        solution=solution,
        solver=None if sketch is None else SketchedSolver(sketch),
    )
    energy = 1.0 if inputs.is_whole else None
    return relative_error(weight, layer.dense_weight().to(weight), example.moments, 1.0, input_energy=energy)


def _narrow(plan: Plan, example: _Example) -> float:
    """Do what a walk does to one linear whose inputs get fewer, and return its error."""
    assert example.moments is not None
    weight, second = example.weight, example.moments.second_moment
    kept = max(1, (plan.ranks[example.ref.path] or 1) * weight.shape[1] // example.ref.in_features)
    places = greedy_units(second, weight @ second, kept)
    fitted = refit_columns(second, weight @ second, weight, places, example.moments.floor)
    product = torch.zeros_like(weight).index_copy(1, places, fitted)
    return relative_error(weight, product, example.moments, 1.0)


def _random_weight(ref: LinearRef, width: int, device: torch.device) -> Tensor:
    """Return a float64 matrix of about the shape of a linear whose inputs are so many, none of its sides too large."""
    rows = max(2, min(ref.out_features * width // ref.in_features, MOST_ROWS * LARGEST_SIDE))
    return random_matrix(rows, width).to(device, torch.float64)


def _growth(shape: tuple[int, int], weight: Tensor) -> float:
    """Return how much longer a decomposition takes than that of a smaller weight."""
    return _svd_operations(shape) / _svd_operations((weight.shape[0], weight.shape[1]))


def _random_moments(size: int, recipe: Recipe, device: torch.device) -> Moments | None:
    if not recipe.objective.needs_data:
        return None
    moments = Moments.zeros(size, paired=recipe.objective.input_source is InputSource.BOTH, device=device)
    # Features of language models are so unlike in size; how a root is found, and whether at all, depends on that.
    tokens = (random_matrix(2 * size, size) * torch.logspace(0, -3, size)).to(device)
    moments.add(tokens, 1.1 * tokens if moments.shift is not None else None)
    return moments


def _svd_operations(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1] * min(shape)
