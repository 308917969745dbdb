"""What the tests of the allocators share."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st

from eckart.methods.allocation import Allocation, Learned, Lems, Masks, Search, SecondRound, Swift, Tolerance
from eckart.methods.allocation.lems import Trialled
from eckart.methods.allocation.masks import Trained as Masked
from eckart.methods.allocation.rank_budget import RankBudget, Ranks
from eckart.methods.allocation.tolerance import relative_errors
from eckart.methods.layout import Layout
from eckart.methods.precision import Bits8, Bits16
from eckart.methods.sensitivity.layer_statistics import LayerStatistics
from eckart.methods.structure import STRUCTURES, TwoFactor

LAYOUT = Layout(TwoFactor())
LAYOUTS = [
    Layout(kind.model_validate({}), precision)
    for kind in STRUCTURES.values()
    for precision in (Bits16(), Bits8())
    if precision == Bits16() or not kind.own_precision
]


def statistics(path: str, shape: tuple[int, int], seed: int = 0, group: int = 0, **others: Any) -> LayerStatistics:
    """Statistics of a linear with random spectra, energies falling."""
    generator = torch.Generator().manual_seed(seed)
    size = min(shape)
    energy = torch.rand(size, generator=generator, dtype=torch.float64).sort(descending=True).values
    first_order = torch.randn(size, generator=generator, dtype=torch.float64) * energy
    curvature = energy * torch.rand(size, generator=generator, dtype=torch.float64)
    values = {"energy": energy, "tokens": 100, "first_order": first_order, "curvature": curvature, "similarity": 0.5}
    return LayerStatistics(path, shape, group, path.rsplit(".", 1)[-1], **{**values, **others})


def measured(path: str, shape: tuple[int, int], seed: int = 0, group: int = 0) -> LayerStatistics:
    """Random statistics, with blocks more alike in front and behind the more energy their first component has."""
    linear = statistics(path, shape, seed, group)
    assert linear.energy is not None
    return replace(linear, similarity=0.1 + linear.energy[0].item())


def trials(linear: LayerStatistics, seed: int) -> dict[int, float]:
    """Return a random loss at a few ranks, smaller for larger ones, as a search finds them."""
    ranks = {LAYOUT.rank_of_share(*linear.shape, share) or 0 for share in (0.4, 0.6, 0.8)} - {0}
    generator = torch.Generator().manual_seed(seed + 1)
    return {rank: float(torch.rand((), generator=generator)) / rank for rank in ranks}


def around(linear: LayerStatistics, seed: int) -> dict[int | None, float]:
    """Return a random divergence at every rank, smaller for larger ones, and of the dense weight."""
    generator = torch.Generator().manual_seed(seed + 2)
    values = torch.rand(min(linear.shape) + 1, generator=generator).sort(descending=True).values.tolist()
    return {**dict(enumerate(values[:-1], 1)), None: values[-1]}


SHAPES = [(64, 64), (24, 64), (96, 64), (64, 96), (64, 64), (24, 64)]
LINEARS = tuple(measured(f"layers.{i // 3}.{i % 3}", shape, i, i // 2) for i, shape in enumerate(SHAPES))
TRIED = tuple(replace(linear, own=trials(linear, i)) for i, linear in enumerate(LINEARS))
TRAINED = tuple(replace(linear, own=0.5) for linear in LINEARS)
DIVERGED = tuple(replace(linear, own=Trialled(0.3 + i % 3, 1.0)) for i, linear in enumerate(LINEARS))
OWN: dict[type[Allocation], tuple[LayerStatistics, ...]] = {
    Search: TRIED,
    Learned: TRAINED,
    Lems: DIVERGED,
    Tolerance: tuple(replace(x, own=relative_errors(x.energy.sqrt())) for x in LINEARS if x.energy is not None),
    Swift: tuple(replace(x, own=0.5) for x in LINEARS),
    Masks: tuple(replace(x, own=Masked(8 + i, {8 + i: 1.0 / (1 + i), 16: 0.1})) for i, x in enumerate(LINEARS)),
    SecondRound: tuple(replace(x, own=around(x, i)) for i, x in enumerate(LINEARS)),
}  # what each finds by a measurement of its own


def bytes_of(ranks: Ranks) -> int:
    """Return what :data:`LINEARS` take at their ranks."""
    return sum(LAYOUT.bytes(*linear.shape, ranks[linear.path]) for linear in LINEARS)


@st.composite
def problems(draw: st.DrawFn, largest: int = 8, most: int = 3) -> RankBudget:
    """Small problems, some of which cannot be met."""
    count = draw(st.integers(1, most))
    linears = tuple(
        statistics(
            f"{index}.linear",
            (draw(st.integers(1, largest)), draw(st.integers(1, largest))),
            seed=draw(st.integers(0, 1000)),
            group=draw(st.integers(0, index)),
        )
        for index in range(count)
    )
    return RankBudget(
        linears,
        draw(st.floats(0.05, 0.999)),
        draw(st.sampled_from(LAYOUTS)),
        multiple=draw(st.integers(1, 3)),
        floor=draw(st.sampled_from([0.0, 0.3, 1.0])),
        fused_groups=draw(st.booleans()),
    )


def all_choices(problem: RankBudget) -> list[dict[str, int | None]]:
    """Every choice of options that the constraints allow, within the budget or not."""
    choices = []
    for options in itertools.product(*(problem.options[linear.path] for linear in problem.linears)):
        ranks = {linear.path: option.rank for linear, option in zip(problem.linears, options, strict=True)}
        if is_allowed(problem, ranks):
            choices.append(ranks)
    return choices


def is_allowed(problem: RankBudget, ranks: dict[str, int | None]) -> bool:
    """Whether ranks are multiples above the floor, and groups of one kind if they must be."""
    for linear in problem.linears:
        rank = ranks[linear.path]
        if rank is None:
            continue
        m, n = linear.shape
        layout = problem.layout
        ranks_that_save = [
            r for r in range(1, layout.highest_rank(m, n) + 1) if layout.bytes(m, n, r) < layout.bytes(m, n, None)
        ]
        break_even = max(ranks_that_save, default=0)
        if rank > break_even or rank % problem.multiple or rank < math.ceil(problem.floor * break_even):
            return False
    if problem.fused_groups:
        factorable = [linear for linear in problem.linears if len(problem.options[linear.path]) > 1]
        for group in {linear.group for linear in factorable}:
            kinds = {ranks[linear.path] is None for linear in factorable if linear.group == group}
            if len(kinds) > 1:
                return False
    return True
