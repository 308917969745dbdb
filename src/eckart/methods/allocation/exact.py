"""The ranks that lose least of all within the budget: exact dynamic programming over bytes."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy
from numpy.typing import NDArray

from eckart.methods.allocation.base import gain_per_byte
from eckart.methods.allocation.fit_to_budget import fit_to_budget
from eckart.methods.allocation.hull import fill_by_hull, lower_hull
from eckart.methods.allocation.rank_budget import RankBudget, Ranks

STATES = 200_000  # partial choices that are kept at most
ROUNDING = 1e-12  # of a sum of losses

Integers = NDArray[numpy.int64]
Floats = NDArray[numpy.float64]


def best_ranks(problem: RankBudget, losses: Mapping[str, Sequence[float]]) -> Ranks:
    """Return the ranks whose losses have the smallest sum of all ranks within the budget.

    This is the multiple-choice knapsack problem. Linears are added one by one; of all partial choices those are kept
    that no other one beats in bytes and in loss. A partial choice also goes where it could not become better than a
    choice that is known, even if the linears to come were filled along the lower hulls of their losses to the last
    byte. Neither takes the best choice away. Unlike :func:`eckart.methods.allocation.hull.fill_by_hull` it also finds
    choices that are on no hull. If more than :data:`STATES` partial choices are left, of those within a share
    ``1 / STATES`` of the budget the best is kept; the budget is met to the byte in any case.

    Args:
        problem: options and budget.
        losses: at each option of each linear, by path, in any unit that adds up. They may fall or rise with the rank,
            and be negative. An option of infinite loss is taken only where the budget leaves nothing else.

    Raises:
        EckartError: the smallest options exceed the budget.
    """
    problem.check()
    return _Programme(problem, losses).run()


@dataclass(frozen=True)
class _States:
    """Partial choices: bytes, loss, and the number of the last option in the history."""

    bytes: Integers
    losses: Floats
    nodes: Integers

    def __getitem__(self, indices: Integers) -> _States:
        return _States(self.bytes[indices], self.losses[indices], self.nodes[indices])


class _Rest:
    """The least that the linears still to come can lose, by the lower hulls of their losses.

    Args:
        segments: (loss saved a byte, bytes) of the hulls.
        size: bytes of their smallest options.
        loss: of these.
    """

    def __init__(self, segments: Sequence[tuple[float, int]], size: int, loss: float) -> None:
        steepest = sorted(segments, reverse=True)
        self._bytes = numpy.cumsum([float(size), *(float(extra) for _, extra in steepest)])
        self._losses = loss - numpy.cumsum([0.0, *(slope * extra for slope, extra in steepest)])

    def least(self, left: Integers) -> Floats:
        """Return it for bytes that are left; infinite where they are too few."""
        found = numpy.interp(left, self._bytes, self._losses)
        return numpy.where(left < self._bytes[0], math.inf, found)


class _Programme:
    """The partial choices, and how they came about."""

    def __init__(self, problem: RankBudget, losses: Mapping[str, Sequence[float]]) -> None:
        self.problem = problem
        self.losses = finite_losses(losses)
        worth = gain_per_byte(problem, self.losses)
        self.known = fit_to_budget(problem, fill_by_hull(problem, self.losses), worth)
        sizes = sum(max(map(abs, row)) for row in self.losses.values())
        self.limit = sum(self._loss_of(path, rank) for path, rank in self.known.items()) + ROUNDING * sizes
        self.sets = self._sets()
        self.rests = self._rests()
        self.starts: list[int] = []  # of the history's parts: (path, parents, options) each
        self.history: list[tuple[str, Integers, Integers]] = []

    def run(self) -> Ranks:
        """Return the best choice."""
        states = _States(numpy.zeros(1, dtype=numpy.int64), numpy.zeros(1), numpy.full(1, -1))
        for members in self.sets:
            tracks = []
            for dense in (None,) if len(members) == 1 else (False, True):
                track = states
                for member in members:
                    track = self._extended(track, member, dense)
                tracks.append(track)
            states = _States(
                numpy.concatenate([track.bytes for track in tracks]),
                numpy.concatenate([track.losses for track in tracks]),
                numpy.concatenate([track.nodes for track in tracks]),
            )
            if len(tracks) > 1:
                states = states[self._kept(states.bytes, states.losses, self.rests[members[-1]])]
        best = min(range(len(states.bytes)), key=lambda n: (states.losses[n], states.bytes[n]))
        return self._traced(int(states.nodes[best]))

    def _extended(self, states: _States, path: str, dense: bool | None) -> _States:
        """Return the choices that may become best, with each option of one linear more.

        Args:
            states: choices without it.
            path: of the linear.
            dense: whether only the dense option is taken, or only the factored ones; None for all.
        """
        options = self.problem.options[path]
        chosen = [n for n in range(len(options)) if dense is None or (n == len(options) - 1) == dense]
        sizes = numpy.array([options[n].bytes for n in chosen], dtype=numpy.int64)
        losses = numpy.array([self.losses[path][n] for n in chosen])
        total = (states.bytes[:, None] + sizes).ravel()
        lost = (states.losses[:, None] + losses).ravel()
        kept = self._kept(total, lost, self.rests[path])
        self.starts.append(self.starts[-1] + len(self.history[-1][1]) if self.history else 0)
        self.history.append((path, states.nodes[kept // len(chosen)], numpy.array(chosen)[kept % len(chosen)]))
        return _States(total[kept], lost[kept], self.starts[-1] + numpy.arange(len(kept)))

    def _kept(self, total: Integers, lost: Floats, rest: _Rest) -> Integers:
        """Return the indices of those that may become the best choice."""
        least = rest.least(self.problem.budget - total)
        indices = numpy.flatnonzero(lost + least <= self.limit)
        indices = indices[numpy.lexsort((lost[indices], total[indices]))]
        ordered = lost[indices]
        indices = indices[ordered < numpy.concatenate(([math.inf], numpy.minimum.accumulate(ordered)))[: len(ordered)]]
        if len(indices) > STATES:
            shares = total[indices] * (STATES / (self.problem.budget + 1))
            last = numpy.append(numpy.diff(shares.astype(numpy.int64)) > 0, True)  # the best of each
            last[0] = True  # so that what takes least stays
            indices = indices[last]
        return indices

    def _traced(self, node: int) -> Ranks:
        found = dict(self.known)
        while node >= 0:
            part = bisect_right(self.starts, node) - 1
            # Parts without a state start where the next one does.
            path, parents, options = self.history[part]
            place = node - self.starts[part]
            found[path] = self.problem.options[path][int(options[place])].rank
            node = int(parents[place])
        return found

    def _loss_of(self, path: str, rank: int | None) -> float:
        options = self.problem.options[path]
        return self.losses[path][next(n for n, option in enumerate(options) if option.rank == rank)]

    def _sets(self) -> list[list[str]]:
        """Return the linears that must be of one kind together, and the others alone."""
        found: list[list[str]] = []
        seen: set[str] = set()
        for path, members in self.problem.groups.items():
            if path not in seen:
                # Linears that have no factored option are dense in any case.
                together = [member for member in members if len(self.problem.options[member]) > 1]
                found.append(together if path in together else [path])
                seen.update(found[-1])
        return found

    def _rests(self) -> dict[str, _Rest]:
        """Return what is to come behind each linear."""
        segments: list[tuple[float, int]] = []
        size, loss = 0, 0.0
        found: dict[str, _Rest] = {}
        for path in reversed([path for members in self.sets for path in members]):
            found[path] = _Rest(segments, size, loss)
            options, values = self.problem.options[path], self.losses[path]
            corners = lower_hull([option.bytes for option in options], values)
            size, loss = size + options[0].bytes, loss + values[0]
            for start, end in pairwise(corners):
                extra = options[end].bytes - options[start].bytes
                segments.append(((values[start] - values[end]) / extra, extra))
        return found


def finite_losses(losses: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return losses with a number for infinity, larger than all finite ones of all linears together."""
    highest = sum(max((abs(v) for v in row if math.isfinite(v)), default=0.0) for row in losses.values())
    infinite = 10 * highest or 1.0
    return {path: [value if math.isfinite(value) else infinite for value in row] for path, row in losses.items()}
