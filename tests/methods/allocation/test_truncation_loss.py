"""The published rule on numbers that can be followed by hand; from the model to the ranks: tests/published."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.methods.allocation.helpers import LAYOUT, statistics

from eckart.methods.allocation import LayerStatistics, TruncationLoss
from eckart.methods.allocation.rank_budget import RankBudget

KEEP = 0.7  # of (64, 64): rank 22


def losing(loss: float, path: str) -> LayerStatistics:
    """Return a linear whose outputs lose so much at any rank from 1 to 40, over all of its 100 tokens."""
    energy = torch.zeros(64, dtype=torch.float64)
    energy[0], energy[40] = 1e6, loss**2 / 100
    return statistics(path, (64, 64), energy=energy)


def shares_of(losses: dict[str, float], keep: float = KEEP) -> dict[str, float]:
    linears = tuple(losing(loss, path) for path, loss in losses.items())
    return TruncationLoss().shares(RankBudget(linears, keep, LAYOUT, multiple=1))


def test_what_is_removed_goes_by_the_logarithm_of_the_loss() -> None:
    """Logarithms of 1 and 2: of the 0.6 that two linears lose together, two parts and one."""
    shares = shares_of({"0.q": math.e, "1.q": math.e**2})
    assert shares == pytest.approx({"0.q": 0.6, "1.q": 0.8})
    problem = RankBudget((losing(math.e, "0.q"), losing(math.e**2, "1.q")), KEEP, LAYOUT, multiple=1)
    assert TruncationLoss().choose(problem) == {"0.q": 19, "1.q": 25}  # of 32 that would take all bytes


def test_linears_of_another_kind_do_not_matter() -> None:
    shares = shares_of({"0.q": math.e, "0.k": 1e9, "1.q": math.e**2, "1.k": 1e9})
    assert shares == pytest.approx({"0.q": 0.6, "0.k": 0.7, "1.q": 0.8, "1.k": 0.7})


@pytest.mark.parametrize("little", [0.0, 0.5, 1.0, 2.0])
def test_losses_without_a_logarithm_above_one_count_as_e(little: float) -> None:
    assert shares_of({"0.q": little, "1.q": math.e**2}) == pytest.approx({"0.q": 0.6, "1.q": 0.8})


def test_nothing_is_removed_twice() -> None:
    shares = shares_of({"0.q": 1.0, "1.q": 1e100}, keep=0.3)
    assert shares["0.q"] == 0
    assert 0.9 < shares["1.q"] <= 1


@given(st.lists(st.floats(math.e, 1e12), min_size=1, max_size=6))
def test_a_kind_keeps_what_it_is_to_keep_and_more_where_more_is_lost(losses: list[float]) -> None:
    shares = list(shares_of({f"{index}.q": loss for index, loss in enumerate(losses)}, keep=0.9).values())
    if min(shares) > 0:
        assert sum(shares) / len(shares) == pytest.approx(0.9)
    by_loss = [share for _, share in sorted(zip(losses, shares, strict=True))]
    assert by_loss == sorted(by_loss)
