"""Compares what moments give with a decomposition of the inputs themselves, on random systems that are hard to solve.

    python benchmarks/conditioning.py --systems 20000

Each system has float32 inputs X' and X of one linear: features that are equal to a few digits, means of many standard
deviations, tokens or features of very different size, low rank, features that are zero. The reference projects the
targets on the singular vectors of X', with features scaled to one size, that are above ``--resolution`` of the largest:
what lies below is a few roundings of float32. Prints, for each kind, how much of ``||T||^2`` is lost beyond the best.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
import typer
from torch import Tensor

from eckart.maths.lowrank import truncate
from eckart.maths.moments import Moments
from eckart.methods.objectives import Anchored, Blended

KINDS = ("plain", "equal features", "large means", "token sizes", "feature sizes", "low rank", "mixed", "dead feature")
TOLERANCE = 1e-8  # of the targets' energy
CPU = torch.device("cpu")


@dataclass(frozen=True)
class System:
    """One linear and its inputs: weight (m, n) float64, inputs X' and X (tokens, n) float32, and a rank."""

    kind: str
    weight: Tensor
    inputs: Tensor
    original: Tensor
    rank: int


def random_system(seed: int) -> System:
    """Return a system; the kinds follow on one another."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    kind = KINDS[seed % len(KINDS)]
    m, n, tokens = whole(1, 10), whole(2, 12), whole(1, 60)
    inputs = normal(tokens, n)
    if kind == "equal features":
        inputs[:, 1] = inputs[:, 0] + 10.0 ** -whole(2, 4) * normal(tokens)
    elif kind == "large means":
        inputs += 10 ** (3.5 * uniform(1)) * normal(n)
    elif kind == "token sizes":
        inputs *= 10 ** (15 * uniform(1) * uniform(tokens, 1))
    elif kind == "feature sizes":
        inputs *= 10 ** (12 * uniform(n) - 6)
    elif kind == "low rank":
        inputs = normal(tokens, n // 2) @ normal(n // 2, n)
    elif kind == "mixed":
        inputs = inputs @ normal(n, n) * 10 ** (-4 * uniform(n)) @ normal(n, n)
    elif kind == "dead feature":
        inputs[:, whole(0, n - 1)] = 0
    sizes = inputs.norm(dim=1, keepdim=True) / n**0.5
    difference = 10.0 ** whole(-4, 1) * sizes * normal(tokens, n)
    original = inputs + difference if whole(0, 1) else sizes * normal(tokens, n)
    return System(kind, normal(m, n), inputs.float(), original.float(), whole(1, min(m, n)))


def losses(system: System, share: float, resolution: float) -> tuple[float, float]:
    """Return the loss of the solution from moments and the least one, as shares of the energy of T.

    Args:
        system: to solve.
        share: b in ``T = W (b X + (1 - b) X')``.
        resolution: singular values below this share of the largest are left out of the reference.
    """
    objective = Anchored() if share == 1 else Blended(beta_min=share, beta_max=share)
    moments = Moments.zeros(system.weight.shape[1], paired=True, device=CPU)
    moments.add(system.inputs, system.original)
    whitening = objective.whitening(moments, system.weight.shape[1], CPU)
    second, first = truncate(objective.solution(system.weight, moments, whitening, system.rank), system.rank)
    inputs, original = system.inputs.double(), system.original.double()
    targets = (share * original + (1 - share) * inputs) @ system.weight.T
    energy = targets.square().sum()
    attained = (targets - inputs @ (second @ first).T).square().sum()
    sizes = inputs.norm(dim=0)
    basis, values, _ = torch.linalg.svd(inputs / torch.where(sizes > 0, sizes, 1), full_matrices=False)
    inside = basis[:, values > resolution * values[0]].T @ targets
    tail = torch.linalg.svdvals(inside)[system.rank :].square().sum() if inside.numel() else 0.0
    best = energy - inside.square().sum() + tail
    return float(attained / energy), float(best / energy)


def excesses(systems: int, resolution: float) -> Iterator[tuple[str, float]]:
    """Yield the kind of each system and the larger loss beyond the best of two targets."""
    for seed in range(systems):
        system = random_system(seed)
        found = [losses(system, share, resolution) for share in (1.0, 0.5)]
        yield system.kind, max(attained - best for attained, best in found)


def main(
    systems: Annotated[int, typer.Option(min=1)] = 20000,
    resolution: Annotated[float, typer.Option(min=0.0)] = 1e-5,
) -> None:
    torch.set_num_threads(1)
    found = defaultdict(list)
    for kind, excess in excesses(systems, resolution):
        found[kind].append(excess)
    print("| inputs | systems | beyond 1e-8 | largest |\n|---|---|---|---|")
    for kind, values in found.items():
        beyond = sum(not value <= TOLERANCE for value in values)
        print(f"| {kind} | {len(values)} | {beyond} | {max(values):.1e} |")


if __name__ == "__main__":
    typer.run(main)
