from __future__ import annotations

from dataclasses import replace

import pytest
from tests.methods.allocation.helpers import LAYOUT, TRAINED, statistics

from eckart.methods.allocation import Learned
from eckart.methods.allocation.rank_budget import RankBudget


def test_ranks_follow_the_positions() -> None:
    problem = RankBudget(TRAINED, 0.5, LAYOUT, multiple=1)
    expected = {
        "layers.0.0": 32,
        "layers.0.1": 12,
        "layers.0.2": 32,
        "layers.1.0": 32,
        "layers.1.1": 32,
        "layers.1.2": 12,
    }
    assert Learned().choose(problem) == expected


@pytest.mark.parametrize(("position", "rank"), [(0.0, 1), (0.004, 1), (0.26, 17), (1.0, 64)])
def test_a_linear_is_left_at_least_one_component(position: float, rank: int) -> None:
    linear = replace(statistics("x", (64, 96)), own=position)
    assert Learned().choose(RankBudget((linear,), 0.5, LAYOUT, multiple=1)) == {"x": rank}


def test_what_is_left_goes_to_the_linear_that_is_furthest_below_its_position() -> None:
    """Positions 16 and 15 of multiples of 8, and room for one step of 8 more than 16 and 8."""
    high, low = (replace(statistics(name, (64, 64)), own=rank / 64) for name, rank in (("high", 16), ("low", 15)))
    assert Learned().ranks((high, low), 0.75, LAYOUT) == {"high": 24, "low": 24}
    assert Learned().ranks((high, low), 0.5, LAYOUT) == {"high": 16, "low": 16}
    assert Learned(fill_budget=False).ranks((high, low), 0.5, LAYOUT) == {"high": 16, "low": 8}
