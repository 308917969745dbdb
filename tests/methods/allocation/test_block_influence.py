from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eckart.methods.allocation import BlockInfluence, LayerStatistics, RankBudget
from eckart.methods.allocation.block_influence import removed_shares
from eckart.methods.layout import Layout


def test_shares_are_those_of_the_hand_example() -> None:
    assert removed_shares([0.1, 0.2], 0.25, 0.1) == pytest.approx([0.365529, 0.134471], abs=1e-6)
    assert removed_shares([0.1, 0.2], 0.25, 0.1, 0.3) == pytest.approx([0.3, 0.2])
    assert removed_shares([0.1, 0.2], 0.25, 1e9) == pytest.approx([0.25, 0.25])


def test_they_are_the_maximiser() -> None:
    influence, mean, temperature = [0.05, 0.3, 0.11], 0.3, 0.1
    best = removed_shares(influence, mean, temperature)

    def worth(shares: list[float]) -> float:
        kept = sum(s * (1 - p) for s, p in zip(influence, shares, strict=True))
        return kept - temperature * sum(p * math.log(p) for p in shares)

    for i, j in ((0, 1), (1, 2), (2, 0)):
        for step in (-1e-3, 1e-3):
            other = list(best)
            other[i], other[j] = other[i] + step, other[j] - step
            assert worth(other) < worth(best)


@given(
    st.lists(st.floats(-1, 2), min_size=1, max_size=12),
    st.floats(0, 1),
    st.floats(1e-3, 1e3),
    st.floats(0.05, 1),
)
def test_their_mean_is_kept_and_none_is_above_the_most(
    influence: list[float], mean: float, temperature: float, most: float
) -> None:
    found = removed_shares(influence, mean, temperature, most)
    assert sum(found) / len(found) == pytest.approx(mean, abs=1e-9)
    assert all(-1e-12 <= share <= max(most, mean) + 1e-9 for share in found)


def test_blocks_of_different_sizes_keep_the_mean_over_bytes() -> None:
    found = removed_shares([0.1, 0.2], 0.25, 0.1, sizes=[3.0, 1.0])
    assert (3 * found[0] + found[1]) / 4 == pytest.approx(0.25)
    assert found[0] > found[1]


def test_all_linears_of_a_block_have_its_share() -> None:
    def linear(block: str, name: str, similarity: float) -> LayerStatistics:
        return LayerStatistics(f"{block}.{name}", (100, 100), 0, name, similarity=similarity, block=block)

    linears = tuple(linear(b, n, s) for b, s in (("0", 0.9), ("1", 0.8)) for n in ("a", "b"))
    problem = RankBudget(linears, 0.75, Layout())
    shares = BlockInfluence(temperature=0.1).shares(problem)
    assert [shares[x.path] for x in linears] == pytest.approx([1 - 0.365529] * 2 + [1 - 0.134471] * 2, abs=1e-6)
    ranks = BlockInfluence(temperature=0.1).choose(problem)
    assert ranks["0.a"] == 31
    assert ranks["1.a"] == 43
