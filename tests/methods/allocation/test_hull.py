from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods.allocation.helpers import all_choices, problems
from torch import Tensor

from eckart.methods.allocation import LayerStatistics
from eckart.methods.allocation.hull import fill_by_hull, lower_hull
from eckart.methods.allocation.rank_budget import RankBudget


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=8, unique_by=lambda p: p[0]))
def test_hull_lies_on_or_below_all_points_and_is_convex(points):
    points = sorted(points)
    positions, values = [p for p, _ in points], [float(v) for _, v in points]
    corners = lower_hull(positions, values)
    slopes = []
    for start, end in pairwise(corners):
        slopes.append((values[end] - values[start]) / (positions[end] - positions[start]))
        for index in range(start, end + 1):
            line = values[start] + slopes[-1] * (positions[index] - positions[start])
            assert values[index] >= line - 1e-9
    assert slopes == sorted(slopes)
    assert all(slope < 0 for slope in slopes)
    assert corners[0] == 0
    assert values[corners[-1]] == min(values)


def curvature_of(linear: LayerStatistics) -> Tensor:
    assert linear.curvature is not None
    return linear.curvature


@settings(max_examples=150)
@given(problems())
def test_no_choice_of_as_many_bytes_loses_less(problem: RankBudget):
    least = sum(options[0].bytes for options in problem.options.values()) / problem.dense_bytes
    problem = replace(problem, keep=max(problem.keep, least))
    losses = problem.losses(curvature_of)

    def loss(ranks):
        return sum(
            losses[path][[option.rank for option in problem.options[path]].index(rank)] for path, rank in ranks.items()
        )

    # With a budget that the segments fill exactly, the greedy choice is the optimum, by brute force over all choices.
    filled = fill_by_hull(problem, losses)
    exact = replace(problem, keep=problem.bytes(filled) / problem.dense_bytes)
    again = fill_by_hull(exact, losses)
    if _skipped_nothing(problem, losses):
        within = [ranks for ranks in all_choices(exact) if exact.bytes(ranks) <= exact.budget]
        assert loss(again) <= min(map(loss, within)) + 1e-12


def _skipped_nothing(problem: RankBudget, losses) -> bool:
    """Whether the greedy choice took a prefix of all segments by slope, which is when it is the optimum."""
    chosen = fill_by_hull(problem, losses)
    taken, left = list[float](), list[float]()
    for path, options in problem.options.items():
        corners = lower_hull([option.bytes for option in options], losses[path])
        index = [option.rank for option in options].index(chosen[path])
        for start, end in pairwise(corners):
            slope = (losses[path][start] - losses[path][end]) / (options[end].bytes - options[start].bytes)
            (taken if end <= index else left).append(slope)
    return not taken or not left or min(taken) >= max(left)
