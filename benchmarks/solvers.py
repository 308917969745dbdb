"""Time of the exact and of the randomized solver, and what the latter loses more, on matrices of a known spectrum.

    python benchmarks/solvers.py
    python benchmarks/solvers.py --shapes 576x1536 --ranks 0.2 --decays 1 --device cuda

A weight is made of which ``W R`` has the singular values ``1, 2^-decay, 3^-decay, ...``. Inputs are unlike in size and
stand out in some directions. Each solver solves for the weight once, as a walk does for a linear layer whose inputs'
second moment it has just summed. A row that says ``exact`` was too large for a sketch by the solver's ``limit``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter, process_time

import torch
from torch import Tensor

from eckart.device import synchronize
from eckart.maths.lowrank import Solution, solve
from eckart.maths.randomized import Sketch
from eckart.maths.whitening import FLOAT32_FLOOR, whiten
from eckart.methods.solver import Randomized

SHAPES = ("576x1536", "4096x4096", "4096x11008", "11008x4096")
DIRECTIONS = 64  # of the inputs that stand out


@dataclass(frozen=True)
class Row:
    """One solution: seconds of both solvers, and by how much more is lost than must be, as a share."""

    shape: tuple[int, int]
    decay: float
    rank: int
    exact: float
    randomized: float
    excess: float


def problem(shape: tuple[int, int], decay: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a weight (m, n) and a second moment of inputs (n, n), float64."""
    generator = torch.Generator().manual_seed(0)

    def orthonormal(rows: int, columns: int) -> Tensor:
        basis: Tensor = torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64))[0]
        return basis.to(device)

    (m, n), size = shape, min(shape)
    sizes = torch.logspace(0, -2, n, dtype=torch.float64)[torch.randperm(n, generator=generator)].to(device)
    out = orthonormal(n, min(DIRECTIONS, n // 2))
    values = torch.arange(1, size + 1, dtype=torch.float64).to(device) ** -decay
    whole = orthonormal(m, size) * values @ orthonormal(n, size).T
    # R is diag(sizes) (1 + 9 out out^T).
    weight = (whole - 0.9 * (whole @ out) @ out.T) / sizes
    moment = torch.outer(sizes, sizes) * (torch.eye(n, dtype=torch.float64).to(device) + 99 * out @ out.T)
    return weight, moment


def timed(weight: Tensor, moment: Tensor, rank: int, sketch: Sketch | None) -> tuple[Solution, float]:
    """Return a solution and its seconds; on a CPU those of all threads, which what runs beside takes nothing of."""
    clock = process_time if weight.device.type == "cpu" else perf_counter
    synchronize(weight.device)
    start = clock()
    solution = solve(whiten(moment, floor=FLOAT32_FLOOR), None, weight, None, rank, sketch)
    synchronize(weight.device)
    return solution, clock() - start


def rows(shape: tuple[int, int], decay: float, shares: list[float], solver: Randomized, place: str) -> Iterator[Row]:
    """Yield a row for each rank, a share of the shorter side."""
    weight, moment = problem(shape, decay, torch.device(place))
    total = (weight @ moment * weight).sum()
    for share in shares:
        rank = int(share * min(shape))
        exact, seconds = timed(weight, moment, rank, None)
        sketch = solver.sketch(shape, rank, "")
        found, others = (exact, seconds) if sketch is None else timed(weight, moment, rank, sketch)
        least = total - exact.singular_values[:rank].square().sum()
        lost = total - found.singular_values[:rank].square().sum()
        yield Row(shape, decay, rank, seconds, others if sketch else float("nan"), float(lost / least) - 1)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="outputs x inputs")
    parser.add_argument("--decays", nargs="+", type=float, default=[0.5, 1.0])
    parser.add_argument("--ranks", nargs="+", type=float, default=[0.2, 0.5], help="shares of the shorter side")
    parser.add_argument("--limit", type=float, default=Randomized().limit)
    parser.add_argument("--iterations", type=int, default=Randomized().iterations)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    solver = Randomized(limit=options.limit, iterations=options.iterations)
    print("| shape | decay | rank | exact | randomized | more is lost by |\n|---|---|---|---|---|---|")
    for text in options.shapes:
        m, n = map(int, text.split("x"))
        for decay in options.decays:
            for row in rows((m, n), decay, options.ranks, solver, options.device):
                known = row.randomized == row.randomized
                cells = f"{row.randomized:.2f} s | {row.excess:.2%}" if known else "exact | "
                print(f"| {text} | {decay:g} | {row.rank} | {row.exact:.2f} s | {cells} |", flush=True)


if __name__ == "__main__":
    main()
