"""The order over the components of all layers, against the slow rule and every choice of ranks."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from eckart.maths.nested import NATS, NestedOrder, falling


def order(losses: dict[str, list[float]], costs: dict[str, int], multiple: int = 1, unfactored: int = 0) -> NestedOrder:
    dense = 100 * sum(costs.values()) + unfactored
    tensors = {path: torch.tensor(values) for path, values in losses.items()}
    return NestedOrder(tensors, tensors, costs, dense, unfactored, lost=0.5, multiple=multiple, unit=NATS)


def test_the_order_by_hand() -> None:
    # A byte of the components behind the first is worth 3, 1 of a, and 2.5, 0.5 of b.
    found = order({"a": [0.0, 30.0, 10.0], "b": [9.0, 50.0, 10.0]}, {"a": 10, "b": 20})
    sizes = [(30, 1, 1), (40, 2, 1), (60, 2, 2), (70, 3, 2), (90, 3, 3)]
    for size, a, b in sizes:
        for budget in (size, size + 9):
            ranks = found.ranks_within(budget / found.dense_bytes)
            assert ranks == {"a": a, "b": b}
            assert found.bytes_of(ranks) == size
            assert found.keep_of(ranks) == size / found.dense_bytes
    assert found.ranks_within(29 / found.dense_bytes) is None
    assert (found.keep, found.least) == (90 / found.dense_bytes, 30 / found.dense_bytes)
    assert found.loss_of({"a": 2, "b": 1}) == pytest.approx(0.5 + 10 + 60)
    cut = found.cut({"a": 2, "b": 1})
    assert cut.ranks == {"a": 2, "b": 1}
    assert cut.lost == cut.loss_of(cut.ranks) == pytest.approx(70.5)
    assert cut.keep == 40 / found.dense_bytes


def literal(steps: list[tuple[float, float]]) -> list[float]:
    """Slopes of the upper hull of gains over costs: at each step the least over starts of the largest over ends."""
    gains, costs = ([0.0, *torch.tensor([s[i] for s in steps], dtype=torch.float64).cumsum(0).tolist()] for i in (0, 1))
    return [
        min(
            max((gains[end] - gains[start]) / (costs[end] - costs[start]) for end in range(step + 1, len(gains)))
            for start in range(step + 1)
        )
        for step in range(len(steps))
    ]


@pytest.mark.parametrize("seed", range(5))
def test_what_steps_are_worth(seed: int) -> None:
    numbers = torch.rand(7, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    steps = [(a, b) for a, b in numbers.tolist()]
    found = falling(steps)
    assert found == pytest.approx(literal(steps))
    assert found == sorted(found, reverse=True)
    assert sum(w * cost for w, (_, cost) in zip(found, steps, strict=True)) == pytest.approx(sum(g for g, _ in steps))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("convex", [True, False])
def test_sizes_are_nested_and_none_of_their_bytes_loses_less(seed: int, convex: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    losses = {path: torch.rand(5, generator=generator, dtype=torch.float64) for path in "abc"}
    if convex:
        losses = {path: values.sort(descending=True).values for path, values in losses.items()}
    found = order({p: v.tolist() for p, v in losses.items()}, {"a": 3, "b": 5, "c": 7}, unfactored=11)
    every = [dict(zip("abc", ranks, strict=True)) for ranks in product(range(1, 6), repeat=3)]
    before = {"a": 0, "b": 0, "c": 0}
    exact = 0
    for size in range(found.bytes_of({"a": 1, "b": 1, "c": 1}), found.bytes_of(found.ranks) + 1):
        ranks = found.ranks_within(size / found.dense_bytes)
        assert ranks is not None
        assert found.bytes_of(ranks) <= size
        assert all(ranks[path] >= rank for path, rank in before.items())
        if ranks != before:  # a new prefix: nothing of as many bytes loses less, if its last pool is whole
            of_its_bytes = [found.loss_of(r) for r in every if found.bytes_of(r) <= found.bytes_of(ranks)]
            best = found.loss_of(ranks) <= min(of_its_bytes) + 1e-9
            exact += best
            assert best or not convex
        before = ranks
    assert before == found.ranks
    assert exact >= 3


def test_ranks_are_multiples_and_end_at_what_is_stored() -> None:
    found = order({"a": [1.0] * 11, "b": [3.0] * 3}, {"a": 1, "b": 1}, multiple=4)
    sizes = [found.ranks_within(size / found.dense_bytes) for size in range(7, 15)]
    assert [ranks and ranks["a"] for ranks in sizes] == [4, 4, 4, 4, 8, 8, 8, 11]
    assert all(ranks and ranks["b"] == 3 for ranks in sizes)
    assert found.least == 7 / found.dense_bytes
