"""The published rule on numbers that can be followed by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.methods.allocation.helpers import LAYOUT, statistics

from eckart.methods.allocation import Importance
from eckart.methods.allocation.rank_budget import RankBudget


def problem_of(similarities: list[float], keep: float) -> RankBudget:
    linears = tuple(statistics(str(index), (64, 64), similarity=s) for index, s in enumerate(similarities))
    return RankBudget(linears, keep, LAYOUT, multiple=1)


@pytest.mark.parametrize(
    ("similarities", "minimum", "shares"),
    [
        ([0.2, 0.4], 0.5, [0.5, 0.7]),  # 0.3 for all, and 0.3 on average by 2/3 and 4/3 of it
        ([0.2, 0.4], 0.0, [0.4, 0.8]),
        ([0.2, 0.4], 1.0, [0.6, 0.6]),
        ([0.5, -0.8], 0.5, [0.9, 0.3]),  # one that turns its input round is not needed at all
        ([0.9, 0.0, 0.0, 0.0], 0.5, [1.0, 0.3, 0.3, 0.3]),  # no more than all
        ([0.0, -0.1], 0.5, [0.6, 0.6]),
    ],
)
def test_shares_go_by_how_alike_input_and_output_are(
    similarities: list[float], minimum: float, shares: list[float]
) -> None:
    problem = problem_of(similarities, 0.6)
    allocation = Importance(minimum=minimum)
    assert list(allocation.shares(problem).values()) == pytest.approx(shares)
    # Rank 32 of (64, 64) would take as much as the weight itself.
    expected = [None if share == 1 else int(32 * share + 1e-9) for share in shares]
    assert list(allocation.choose(problem).values()) == expected


@given(st.lists(st.floats(0.5, 1), min_size=1, max_size=8), st.floats(0.1, 0.6), st.floats(0, 1))
def test_the_mean_is_what_is_to_be_kept(similarities: list[float], keep: float, minimum: float) -> None:
    shares = Importance(minimum=minimum).shares(problem_of(similarities, keep)).values()
    if max(shares) < 1:
        assert sum(shares) / len(shares) == pytest.approx(keep)
    assert min(shares) >= minimum * keep
