from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.methods.allocation.helpers import LAYOUT, LINEARS, bytes_of, statistics

from eckart.methods.allocation import (
    Uniform,
)
from eckart.methods.allocation.rank_budget import RankBudget


@given(st.integers(1, 400), st.integers(1, 400), st.floats(0.01, 1.0))
def test_uniform_gives_the_largest_rank_within_the_share(m: int, n: int, keep: float) -> None:
    problem = RankBudget((statistics("x", (m, n)),), keep, LAYOUT)
    rank = Uniform().choose(problem)["x"]
    if rank is None:
        # Dense: there is nothing to save, by the budget or by the structure.
        assert keep >= 1 - 1e-6 or LAYOUT.bytes(m, n, 1) >= 2 * m * n
        return
    budget = keep * 2 * m * n + 1e-3
    assert rank == 1 or LAYOUT.bytes(m, n, rank) <= budget
    assert LAYOUT.bytes(m, n, rank + 1) > budget - 1e-2
    assert LAYOUT.bytes(m, n, rank) < 2 * m * n


def test_uniform_ranks_of_a_7b_model_are_the_published_ones() -> None:
    shapes = {"q": (4096, 4096), "down": (4096, 11008)}
    for keep, expected in ((0.8, {"q": 1638, "down": 2388}), (0.6, {"q": 1228, "down": 1791})):
        for path, shape in shapes.items():
            assert LAYOUT.rank_of_share(*shape, keep) == expected[path]
    # 0.7 * 2 * 100 * 100 is 13999.999... bytes in binary, rank 35.
    assert LAYOUT.rank_of_share(100, 100, 0.7) == 35


def test_uniform_leaves_no_two_linears_more_than_a_step_apart() -> None:
    ranks = Uniform(multiple=1).ranks(LINEARS, 0.6, LAYOUT)
    for linear in LINEARS:
        m, n = linear.shape
        rank = ranks[linear.path]
        assert rank is not None
        assert math.floor(0.6 * m * n / (m + n)) <= rank <= math.floor(0.6 * m * n / (m + n)) + 1


@pytest.mark.parametrize("keep", [0.8, 0.6, 0.4])
def test_uniform_rounds_down_and_stops_if_the_budget_is_not_to_be_filled(keep: float) -> None:
    ranks = Uniform(multiple=1, fill_budget=False).ranks(LINEARS, keep, LAYOUT)
    assert ranks == {linear.path: math.floor(keep * math.prod(linear.shape) / sum(linear.shape)) for linear in LINEARS}
    assert bytes_of(Uniform(multiple=1).ranks(LINEARS, keep, LAYOUT)) > bytes_of(ranks)
