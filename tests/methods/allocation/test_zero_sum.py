from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods.allocation.helpers import LAYOUT, statistics
from torch import Tensor

from eckart.methods.allocation import LayerStatistics, ZeroSum
from eckart.methods.allocation.rank_budget import RankBudget
from eckart.methods.allocation.zero_sum import select_zero_sum
from eckart.methods.layout import Layout
from eckart.methods.structure import Pivoted


def changes_of(linear: LayerStatistics) -> Tensor:
    assert linear.first_order is not None
    return linear.first_order


def literal_zero_sum(problem: RankBudget) -> dict[str, int | None]:
    """The published rule, word by word, without heaps: look at all candidates before each step."""
    ranks = {linear.path: min(linear.shape) for linear in problem.linears}
    found_at = {path: number for number, path in enumerate(ranks)}  # when a candidate came up, to break ties
    changes = {linear.path: changes_of(linear).tolist() for linear in problem.linears}
    shapes = {linear.path: linear.shape for linear in problem.linears}

    def cost(path, rank):
        m, n = shapes[path]
        return 2 * min(m * n, rank * (m + n))

    def break_even(path):
        m, n = shapes[path]
        return (m * n - 1) // (m + n)

    running, clock = 0.0, len(ranks)
    removed, quota = 0, sum(2 * m * n for m, n in shapes.values()) - problem.budget
    while removed < quota:
        candidates = []
        for path, rank in ranks.items():
            least = max(1, -(-int(1e9 * problem.floor * break_even(path)) // int(1e9)))
            if break_even(path) >= 1 and rank > least:
                candidates.append((abs(changes[path][rank - 1]), found_at[path], path, changes[path][rank - 1]))
        rising = [c for c in candidates if c[3] >= 0]
        falling = [c for c in candidates if c[3] < 0]
        pool = (rising or falling) if running <= 0 else (falling or rising)
        if not pool:
            break
        _, _, path, change = min(pool)
        removed += cost(path, ranks[path]) - cost(path, ranks[path] - 1)
        ranks[path] -= 1
        running += change
        found_at[path] = clock
        clock += 1
    return {path: rank if rank <= break_even(path) else None for path, rank in ranks.items()}


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99)), min_size=1, max_size=4),
    st.floats(0.05, 0.99),
    st.sampled_from([0.0, 0.3]),
)
def test_the_heaps_choose_what_the_published_rule_says(shapes, keep, floor):
    linears = tuple(statistics(str(i), (m, n), seed) for i, (m, n, seed) in enumerate(shapes))
    problem = RankBudget(linears, keep, LAYOUT, multiple=1, floor=floor)
    assert select_zero_sum(problem) == literal_zero_sum(problem)


def test_ties_go_to_the_candidate_that_came_up_first():
    tied = [statistics(name, (8, 8), first_order=torch.full((8,), 0.5, dtype=torch.float64)) for name in "ab"]
    problem = RankBudget(tuple(tied), 0.6, LAYOUT, multiple=1)
    assert select_zero_sum(problem) == literal_zero_sum(problem)


def test_the_running_sum_stays_near_zero():
    linears = tuple(statistics(str(i), (64, 64), seed=i) for i in range(6))
    ranks = ZeroSum(multiple=1).ranks(linears, 0.5, LAYOUT)
    factored = [(linear, rank) for linear in linears if (rank := ranks[linear.path]) is not None]
    removed = sum(float(changes_of(linear)[rank:].sum()) for linear, rank in factored)
    # Within what the last step, and the filling up of the budget, can change.
    assert abs(removed) < 2 * max(float(changes_of(linear).abs().max()) for linear in linears)


def test_a_structure_that_has_no_full_rank_starts_from_the_dense_weight():
    linears = tuple(statistics(f"{i}", (12, 12), seed=i) for i in range(3))
    problem = RankBudget(linears, 0.7, Layout(Pivoted()), multiple=1)
    assert problem.cost(linears[0], 12) == 2 * 12 * 12
    ranks = ZeroSum(multiple=1).ranks(linears, 0.7, Layout(Pivoted()))
    assert problem.bytes(ranks) <= problem.budget
