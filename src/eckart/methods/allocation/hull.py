"""Water-filling over the lower convex hull of each linear's (bytes, loss) curve."""

from __future__ import annotations

from itertools import pairwise

from eckart.methods.allocation.rank_budget import RankBudget, Ranks


def fill_by_hull(problem: RankBudget, losses: dict[str, list[float]]) -> Ranks:
    """Return the ranks that lose least for their bytes, all linears taken together.

    Every linear starts at its smallest option and climbs the lower convex hull of its curve, the steepest segment of
    all linears first, while segments fit. On the hull the jump from factors to the dense weight, which costs more than
    a component and brings all that is left, has the price that it is worth. A choice made only of whole segments
    loses least of all choices of as many bytes.

    Args:
        problem: options and budget.
        losses: at each option of each linear, by path.
    """
    segments: list[tuple[float, int, str, int, int]] = []
    for path, options in problem.options.items():
        corners = lower_hull([option.bytes for option in options], losses[path])
        for start, end in pairwise(corners):
            slope = (losses[path][start] - losses[path][end]) / (options[end].bytes - options[start].bytes)
            segments.append((-slope, len(segments), path, start, end))
    chosen = dict.fromkeys(problem.options, 0)
    total = sum(options[0].bytes for options in problem.options.values())
    for _, _, path, start, end in sorted(segments):
        options = problem.options[path]
        extra = options[end].bytes - options[start].bytes
        # A linear whose segment did not fit climbs no further: its next one starts where it is not.
        if chosen[path] == start and total + extra <= problem.budget:
            chosen[path], total = end, total + extra
    return {path: problem.options[path][index].rank for path, index in chosen.items()}


def lower_hull(positions: list[int], values: list[float]) -> list[int]:
    """Return the indices of the corners of the lower convex hull of points with rising positions.

    It ends at the lowest point: what costs more and loses more is never a corner.
    """
    end = min(range(len(values)), key=lambda index: (values[index], positions[index]))
    corners: list[int] = []
    for index in range(end + 1):
        while len(corners) >= 2 and _is_above(corners[-2], corners[-1], index, positions, values):
            corners.pop()
        corners.append(index)
    return corners


def _is_above(left: int, middle: int, right: int, positions: list[int], values: list[float]) -> bool:
    """Return whether the middle point lies on or above the line between the two others."""
    whole = (values[right] - values[left]) * (positions[middle] - positions[left])
    return (values[middle] - values[left]) * (positions[right] - positions[left]) >= whole
