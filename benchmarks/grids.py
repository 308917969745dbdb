"""Compares grids for numbers of few bits on the weights of models: what each loses, rounded to the nearest.

    python benchmarks/grids.py MODEL [MODEL ..] --group 64

Scales are searched for each group. The table holds squared errors over those of the grid that Eckart has: whole numbers
from -L to L - 1, with a scale whose sign lets the largest number have the code -L. A zero point takes bits of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from torch import Tensor

import eckart
from eckart.layers import is_linear, weight_matrix

Grid = Callable[[Tensor, float], Tensor]
CLIPS = [0.5 + 0.025 * step for step in range(23)]  # shares of the largest number that the grid may end at
MOST = 4000  # groups of a layer


def main(
    model: Annotated[list[str], typer.Argument(help="Folders, hub ids or .gguf files.")],
    group: Annotated[int, typer.Option(help="Numbers with a scale in common; a power of two.")] = 64,
) -> None:
    """Print a table for each model."""
    torch.manual_seed(0)
    for name in model:
        weights = groups_of(name, group)
        signs = torch.randint(0, 2, (group,)).mul(2).sub(1)
        rotated = weights @ (hadamard(group) * signs)
        print(f"{name}, {len(weights)} groups of {group}:\n")
        print("| bits | zero point | its bits are worth | codebook | rotated | rotated, codebook |")
        print("|---|---|---|---|---|---|")
        for bits in (4, 3, 2):
            ours = error(weights, signed(bits))
            cells = [
                error(weights, zero_point(bits)),
                ours * 4 ** (-bits / group),
                error(weights, codebook(bits)),
                error(rotated, signed(bits)),
                error(rotated, codebook(bits)),
            ]
            print(f"| {bits} | {' | '.join(f'{cell / ours:.3f}' for cell in cells)} |")


@torch.no_grad()
def groups_of(name: str, group: int) -> Tensor:
    """Return groups of the numbers of all linear layers in the first, the middle and the last block of a model."""
    model = eckart.load_model(name, dtype=torch.float32)
    _, blocks = max(
        ((path, module) for path, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)),
        key=lambda pair: len(pair[1]),
    )
    found = []
    for block in (blocks[0], blocks[len(blocks) // 2], blocks[-1]):
        for layer in filter(is_linear, block.modules()):
            weight = weight_matrix(layer)
            if weight.shape[1] % group == 0:
                found.append(weight.reshape(-1, group)[:MOST])
    return torch.cat(found)


def error(weights: Tensor, grid: Grid) -> float:
    """Return the squared error of groups (groups, size) that are rounded with the best of some scales."""
    best = torch.full((len(weights),), float("inf"))
    for clip in CLIPS:
        best = torch.minimum(best, (weights - grid(weights, clip)).square().sum(1))
    return float(best.sum())


def signed(bits: int) -> Grid:
    """Return whole numbers from -L to L - 1 times a scale with a sign."""
    largest = 2 ** (bits - 1)

    def rounded(weights: Tensor, clip: float) -> Tensor:
        top = weights.gather(1, weights.abs().argmax(1, keepdim=True))
        scale = -top * clip / largest
        codes = (weights / scale).round().clamp(-largest, largest - 1)
        found: Tensor = codes * scale
        return found

    return rounded


def zero_point(bits: int) -> Grid:
    """Return whole numbers from 0 on, less a whole number of as many bits, times a scale."""
    largest = 2**bits - 1

    def rounded(weights: Tensor, clip: float) -> Tensor:
        low, high = (end.values * clip for end in (weights.min(1, keepdim=True), weights.max(1, keepdim=True)))
        scale = (high - low) / largest
        zero = (-low / scale).round().clamp(0, largest)
        codes = ((weights / scale).round() + zero).clamp(0, largest)
        found: Tensor = (codes - zero) * scale
        return found

    return rounded


def codebook(bits: int) -> Grid:
    """Return the numbers that lose least of a normal distribution (Lloyd and Max), times a scale."""
    points = torch.special.ndtri(torch.linspace(1e-4, 1 - 1e-4, 20001))  # quantiles of a normal distribution
    numbers = torch.special.ndtri((torch.arange(2**bits) + 0.5) / 2**bits)
    for _ in range(200):
        nearest = (points[:, None] - numbers).abs().argmin(1)
        numbers = torch.stack([points[nearest == place].mean() for place in range(len(numbers))])
    numbers = numbers / numbers.abs().max()

    def rounded(weights: Tensor, clip: float) -> Tensor:
        scale = weights.abs().amax(1, keepdim=True) * clip
        nearest = ((weights / scale)[..., None] - numbers).abs().argmin(-1)
        found: Tensor = numbers[nearest] * scale
        return found

    return rounded


def hadamard(size: int) -> Tensor:
    """Return an orthogonal matrix of signs over the root of their number; the size is a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(size)


if __name__ == "__main__":
    typer.run(main)
