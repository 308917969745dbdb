"""What holds for every allocator, and each one's own rule."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods.allocation.helpers import LAYOUT, statistics

from eckart.errors import EckartError
from eckart.methods.allocation import (
    ALLOCATIONS,
    Curvature,
    Energy,
    Importance,
    LayerStatistics,
    Learned,
    Search,
    TruncationLoss,
    Uniform,
    ZeroSum,
)
from eckart.methods.allocation.rank_budget import RankBudget

KINDS = tuple(ALLOCATIONS.values())


def measured(path: str, shape: tuple[int, int], seed: int = 0, group: int = 0):
    linear = statistics(path, shape, seed, group)
    return statistics(path, shape, seed, group, similarity=0.1 + linear.energy[0].item())


def trials(linear: LayerStatistics, seed: int) -> dict[int, float]:
    ranks = {LAYOUT.rank_of_share(*linear.shape, share) or 0 for share in (0.4, 0.6, 0.8)} - {0}
    generator = torch.Generator().manual_seed(seed + 1)
    return {rank: float(torch.rand((), generator=generator)) / rank for rank in ranks}


SHAPES = [(64, 64), (24, 64), (96, 64), (64, 96), (64, 64), (24, 64)]
LINEARS = tuple(measured(f"layers.{i // 3}.{i % 3}", shape, i, i // 2) for i, shape in enumerate(SHAPES))
TRIED = tuple(replace(linear, own=trials(linear, i)) for i, linear in enumerate(LINEARS))
TRAINED = tuple(replace(linear, own=0.5) for linear in LINEARS)
OWN = {Search: TRIED, Learned: TRAINED}  # what each finds by a measurement of its own


def bytes_of(ranks, linears=LINEARS) -> int:
    return sum(LAYOUT.bytes(*linear.shape, ranks[linear.path]) for linear in linears)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(keep=st.floats(0.3, 0.99), multiple=st.sampled_from([1, 4, 8]), fused=st.booleans())
def test_the_budget_is_met_within_a_step(kind, keep, multiple, fused):
    ranks = kind(multiple=multiple, fused_groups=fused).ranks(OWN.get(kind, LINEARS), keep, LAYOUT)
    dense = sum(2 * math.prod(shape) for shape in SHAPES)
    assert bytes_of(ranks) <= keep * dense
    assert all(rank is None or rank % multiple == 0 for rank in ranks.values())
    if not fused:
        smallest_step = 2 * multiple * min(m + n for m, n in SHAPES)
        largest_jump = max(
            2 * m * n - 2 * (m + n) * (multiple * ((m * n - 1) // (m + n) // multiple)) for m, n in SHAPES
        )
        assert bytes_of(ranks) > keep * dense - max(smallest_step, 2 * multiple * 160, largest_jump)


@pytest.mark.parametrize("kind", KINDS)
def test_all_stay_dense_where_all_is_kept(kind):
    assert set(kind().ranks(OWN.get(kind, LINEARS), 1.0, LAYOUT).values()) == {None}


@pytest.mark.parametrize("kind", KINDS)
def test_one_linear_alone_gets_the_largest_rank_that_fits(kind):
    ranks = kind(multiple=1).ranks(OWN.get(kind, LINEARS)[:1], 0.5, LAYOUT)
    assert ranks == {LINEARS[0].path: 16}


@pytest.mark.parametrize("kind", KINDS)
def test_a_floor_that_cannot_be_met_is_refused(kind):
    with pytest.raises(EckartError, match="smallest ranks allowed take"):
        kind(floor=1.0).ranks(OWN.get(kind, LINEARS), 0.5, LAYOUT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_linear_too_small_to_factor_stays_dense(kind):
    tiny = replace(measured("layers.0.tiny", (2, 2)), own=OWN.get(kind, LINEARS)[0].own)
    linears = (tiny, *OWN.get(kind, LINEARS))
    assert kind().ranks(linears, 0.6, LAYOUT)["layers.0.tiny"] is None


@given(st.integers(1, 400), st.integers(1, 400), st.floats(0.01, 1.0))
def test_uniform_gives_the_largest_rank_within_the_share(m, n, keep):
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


def test_uniform_ranks_of_a_7b_model_are_the_published_ones():
    shapes = {"q": (4096, 4096), "down": (4096, 11008)}
    for keep, expected in ((0.8, {"q": 1638, "down": 2388}), (0.6, {"q": 1228, "down": 1791})):
        for path, shape in shapes.items():
            assert LAYOUT.rank_of_share(*shape, keep) == expected[path]
    # 0.7 * 2 * 100 * 100 is 13999.999... bytes in binary, rank 35.
    assert LAYOUT.rank_of_share(100, 100, 0.7) == 35


def test_uniform_leaves_no_two_linears_more_than_a_step_apart():
    ranks = Uniform(multiple=1).ranks(LINEARS, 0.6, LAYOUT)
    for linear in LINEARS:
        m, n = linear.shape
        assert math.floor(0.6 * m * n / (m + n)) <= ranks[linear.path] <= math.floor(0.6 * m * n / (m + n)) + 1


@pytest.mark.parametrize("keep", [0.8, 0.6, 0.4])
def test_uniform_rounds_down_and_stops_if_the_budget_is_not_to_be_filled(keep):
    ranks = Uniform(multiple=1, fill_budget=False).ranks(LINEARS, keep, LAYOUT)
    assert ranks == {linear.path: math.floor(keep * math.prod(linear.shape) / sum(linear.shape)) for linear in LINEARS}
    assert bytes_of(Uniform(multiple=1).ranks(LINEARS, keep, LAYOUT)) > bytes_of(ranks)


@pytest.mark.parametrize("kind", KINDS)
def test_not_filling_the_budget_gives_no_linear_more(kind):
    """One step down at most where the choice is above the budget; never a step up from the choice."""
    for keep in (0.8, 0.6, 0.45):
        allocation = kind(multiple=1, fill_budget=False)
        linears = OWN.get(kind, LINEARS)
        chosen = allocation.choose(RankBudget(linears, keep, LAYOUT, multiple=1))
        for linear in linears:
            rank = allocation.ranks(linears, keep, LAYOUT)[linear.path]
            limit = chosen[linear.path]
            assert limit is None or rank is None or rank <= limit


def test_truncation_loss_removes_more_where_less_is_lost():
    problem = RankBudget(LINEARS, 0.6, LAYOUT, multiple=1)
    shares = TruncationLoss().shares(problem)
    for kind in {linear.kind for linear in LINEARS}:
        members = [linear for linear in LINEARS if linear.kind == kind]
        losses = [math.sqrt(float(m.energy[problem.rank_of_share(m, 0.6) :].sum()) * m.tokens) for m in members]
        weights = [1 / math.log(max(loss, math.e)) for loss in losses]
        for member, weight in zip(members, weights, strict=True):
            expected = 1 - len(members) * 0.4 * weight / sum(weights)
            assert shares[member.path] == pytest.approx(expected)


def test_importance_is_the_published_formula():
    problem = RankBudget(LINEARS, 0.6, LAYOUT, multiple=1)
    shares = Importance(minimum=0.5).shares(problem)
    mean = sum(linear.similarity for linear in LINEARS) / len(LINEARS)
    for linear in LINEARS:
        assert shares[linear.path] == pytest.approx(min(0.3 + linear.similarity / mean * 0.3, 1))
    assert sum(shares.values()) / len(shares) == pytest.approx(0.6)


def test_search_takes_the_lowest_cut_that_meets_the_budget():
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


def test_energy_is_the_optimum_of_the_truncation_loss_of_equal_linears():
    """Equal shapes, steps of one size, no dense option in reach: greedy by energy is keeping the largest components."""
    falling = 0.8 ** torch.arange(64, dtype=torch.float64)
    linears = tuple(statistics(f"{i}.x", (64, 64), energy=falling * (i + 1)) for i in range(4))
    ranks = Energy(relative=False, multiple=1).ranks(linears, 0.3, LAYOUT)
    kept = sum(ranks.values())
    everything = torch.cat([linear.energy for linear in linears]).sort(descending=True).values
    found = sum(float(linear.energy[: ranks[linear.path]].sum()) for linear in linears)
    assert found == pytest.approx(float(everything[:kept].sum()))


def test_curvature_prices_the_jump_to_dense():
    """A linear whose loss lies in its last components is better left dense than factored at any rank."""
    flat = statistics("0.flat", (64, 64), curvature=torch.ones(64, dtype=torch.float64))
    steep = statistics("0.steep", (64, 64), curvature=0.7 ** torch.arange(64, dtype=torch.float64))
    ranks = Curvature(multiple=1).ranks((flat, steep), 0.7, LAYOUT)
    assert ranks["0.flat"] is None
    assert ranks["0.steep"] is not None


def test_learned_ranks_follow_the_positions():
    problem = RankBudget(TRAINED, 0.5, LAYOUT, multiple=1)
    assert Learned().choose(problem) == {linear.path: round(0.5 * min(linear.shape)) for linear in TRAINED}


def test_zero_sum_has_the_published_number_of_stages():
    from eckart.methods.recipes.published import RECIPES

    assert ZeroSum().stages == 1
    assert RECIPES["zs-svd-staged"].allocation.stages == 6
