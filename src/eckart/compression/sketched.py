"""Solves the equation of a layer from a sketch, and measures what that loses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from eckart.blocks.block import Block
from eckart.compression.records import SketchRecord
from eckart.maths.lowrank import Solution, minimum_loss, solve
from eckart.maths.randomized import Sketch
from eckart.maths.whitening import OutputRoot, Whitening
from eckart.methods.solver import Solver

SMALLEST_LOSS = 1e-12  # as a share of what is to be explained; below it is rounding


@dataclass
class SketchedSolver:
    """Solves the equation of one linear, once or, for a structure that alternates, several times.

    Attributes:
        sketch: in which components are found.
        compares: whether it is solved exactly, too, to know how much less is lost so.
        record: of the solution that lost most beside the exact one; None if there is none, since components too small
            for a sketch were wanted, or nobody asked.
    """

    sketch: Sketch
    compares: bool = False
    record: SketchRecord | None = None

    def __call__(
        self, whitening: Whitening, cross_moment: Tensor | None, weight: Tensor, metric: OutputRoot | None, rank: int, /
    ) -> Solution:
        """Return the solution; arguments as for :func:`eckart.maths.lowrank.solve`."""
        solution = solve(whitening, cross_moment, weight, metric, rank, self.sketch)
        energy = float(solution.energy)
        if solution.sketched is None or not energy > 0:
            return solution
        lost, excess = float(minimum_loss(solution, rank, solution.energy)), None
        if self.compares:
            least = minimum_loss(solve(whitening, cross_moment, weight, metric, rank), rank, solution.energy)
            excess = max(0.0, lost - float(least)) / max(float(least), SMALLEST_LOSS * energy)
        found = SketchRecord(loss=max(0.0, lost) / energy, excess=excess)
        if self.record is None or (found.excess or 0.0) >= (self.record.excess or 0.0):
            self.record = found
        return solution


def compared_layers(blocks: Iterable[Block], ranks: dict[str, int | None], solver: Solver) -> frozenset[str]:
    """Return the paths of the linears that are solved exactly, too: the first one of each shape that has a sketch.

    They follow from the plan alone, so that a run that was resumed, or that is shared among processes, has the same.
    """
    first: dict[tuple[int, int], str] = {}
    for ref in (ref for block in blocks for ref in block.linears):
        rank = ranks[ref.path]
        if rank is not None and solver.sketch(ref.shape, rank, ref.path) is not None:
            first.setdefault(ref.shape, ref.path)
    return frozenset(first.values())
