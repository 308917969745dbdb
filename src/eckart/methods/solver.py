"""How the equation is solved for a linear whose rank is known: exactly, or from a sketch of it.

A choice of speed, and not of what is minimised. Where ranks follow from all singular values of the original weights,
those are found exactly whatever is chosen here.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal
from zlib import crc32

from pydantic import Field

from eckart.maths.randomized import Sketch
from eckart.methods.choice import Choice

LEAST_MORE = 8  # columns of a sketch beyond the rank, however small that is


class Solver(Choice):
    """A choice of how the equation is solved."""

    sketches: ClassVar[bool] = False  # whether linears are solved from a sketch, where that is worth it

    def sketch(self, shape: tuple[int, int], rank: int, path: str) -> Sketch | None:
        """Return the sketch from which a linear is solved; None for exactly.

        Args:
            shape: (out features, in features).
            rank: that it will get.
            path: of the linear, by which the random numbers of the sketch differ.
        """
        return None


class Exact(Solver):
    """All singular vectors, from a decomposition as large as the linear."""

    name: Literal["exact"] = "exact"


class Randomized(Solver):
    """The leading singular vectors only, by :mod:`eckart.maths.randomized`: faster, and a little more is lost.

    The random numbers of a linear follow from its path: a run gives the same bytes each time, also if it was stopped.

    Attributes:
        oversampling: columns of the sketch beyond the rank, as a share of the rank.
        iterations: power iterations; more lose less, and take longer.
        limit: columns of the sketch as a share of the shorter side of a linear, up to which it is solved from a sketch.
            A larger sketch takes longer than solving it exactly.
    """

    name: Literal["randomized"] = "randomized"
    sketches: ClassVar[bool] = True

    oversampling: float = Field(0.25, ge=0.0, le=4.0)
    iterations: int = Field(3, ge=0, le=64)
    limit: float = Field(0.4, gt=0.0, le=1.0)

    def sketch(self, shape: tuple[int, int], rank: int, path: str) -> Sketch | None:
        """See :meth:`Solver.sketch`."""
        columns = rank + max(LEAST_MORE, math.ceil(self.oversampling * rank))
        if columns > self.limit * min(shape):
            return None
        return Sketch(columns, self.iterations, crc32(path.encode()))


AnySolver = Exact | Randomized
