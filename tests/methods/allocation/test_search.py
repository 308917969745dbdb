from __future__ import annotations

from tests.methods.allocation.helpers import LAYOUT, TRIED, bytes_of

from eckart.methods.allocation import (
    Search,
)
from eckart.methods.allocation.rank_budget import RankBudget


def test_search_takes_the_lowest_cut_that_meets_the_budget() -> None:
    """By brute force over all cuts, as published: each linear takes its smallest rank among the pairs below the cut."""
    search = Search(multiple=1)
    for keep in (0.5, 0.7, 0.9):
        problem = RankBudget(TRIED, keep, LAYOUT, multiple=1)
        pairs = sorted((loss, i, rank) for i, linear in enumerate(TRIED) for rank, loss in linear.own.items())
        expected = None
        for cut in range(len(pairs) + 1):
            ranks = {
                linear.path: min((rank for _, i, rank in pairs[:cut] if TRIED[i] is linear), default=None)
                for linear in TRIED
            }
            if bytes_of(ranks) <= problem.budget:
                expected = ranks
                break
        assert search.choose(problem) == expected
