"""Budgets of their own, of every allocator: each set of linears is as if it were alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods.allocation.helpers import LAYOUT, LINEARS, OWN

from eckart.errors import EckartError
from eckart.methods.allocation import ALLOCATIONS, Allocation, Budgets, LayerStatistics, Uniform
from eckart.methods.allocation.budgets import rank_within
from eckart.methods.layout import Layout
from eckart.methods.precision import Bits8
from eckart.methods.structure import Pivoted
from eckart.methods.targets import Size

KINDS = tuple(kind for kind in ALLOCATIONS.values() if not (kind.chooses_bases or kind.chooses_sparsities))
PATHS = [linear.path for linear in LINEARS]
COMMON, NAMED, FIXED = Size("--keep", 0.6), Size("targets.x.keep", 0.8), Size("targets.y.rank", None, 5)


def spent(linears: tuple[LayerStatistics, ...], ranks: dict[str, int | None], paths: set[str]) -> tuple[int, int]:
    """Return the bytes of some linears at their ranks, and in 16 bits."""
    members = [linear for linear in linears if linear.path in paths]
    return sum(LAYOUT.bytes(*m.shape, ranks[m.path]) for m in members), sum(m.dense_bytes for m in members)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(
    kinds=st.lists(st.sampled_from([None, "a", "b", "rank"]), min_size=len(PATHS), max_size=len(PATHS)),
    keep=st.floats(0.4, 0.95),
    own=st.floats(0.4, 1.0),
)
def test_every_set_is_within_its_budget_and_as_if_it_were_alone(
    kind: type[Allocation], kinds: list[str | None], keep: float, own: float
) -> None:
    linears = OWN.get(kind, LINEARS)
    sizes = {"a": Size("a", own), "b": Size("b", 0.7), "rank": FIXED}
    budgets = Budgets(keep, {path: sizes[name] for path, name in zip(PATHS, kinds, strict=True) if name})
    allocation = kind.model_validate({"multiple": 1})
    ranks = allocation.ranks_within(linears, budgets, LAYOUT)
    assert list(ranks) == PATHS
    for size, members in budgets.split(linears):
        alone = {member.path: ranks[member.path] for member in members}
        if size.keep is None:
            assert set(alone.values()) == {5}
            continue
        bytes_, dense = spent(linears, ranks, set(alone))
        assert bytes_ <= size.keep * dense + 1e-6
        assert alone == allocation.ranks(tuple(members), size.keep, LAYOUT)


@pytest.mark.parametrize("kind", KINDS)
def test_without_sizes_of_their_own_nothing_changes(kind: type[Allocation]) -> None:
    linears, allocation = OWN.get(kind, LINEARS), kind.model_validate({})
    assert allocation.ranks_within(linears, Budgets(0.6), LAYOUT) == allocation.ranks(linears, 0.6, LAYOUT)


def test_linears_of_one_size_share_its_bytes() -> None:
    own = {PATHS[0]: NAMED, PATHS[2]: FIXED, PATHS[3]: NAMED}
    found = [(size, [x.path for x in members]) for size, members in Budgets(0.6, own).split(LINEARS)]
    assert found == [
        (NAMED, [PATHS[0], PATHS[3]]),
        (COMMON, [PATHS[1], *PATHS[4:]]),
        (FIXED, [PATHS[2]]),
    ]


@pytest.mark.parametrize(
    ("budgets", "chooses", "factors"),
    [
        (Budgets(1.0), False, False),
        (Budgets(0.9), True, True),
        (Budgets(1.0, {"a": NAMED}), True, True),
        (Budgets(1.0, {"a": Size("a", 1.0)}), False, False),
        (Budgets(1.0, {"a": FIXED}), False, True),
    ],
)
def test_what_must_be_found_out(budgets: Budgets, chooses: bool, factors: bool) -> None:
    assert (budgets.chooses, budgets.factors) == (chooses, factors)


def test_a_rank_that_saves_nothing_is_none() -> None:
    linear = replace(LINEARS[0], shape=(32, 32))
    assert [rank_within(linear, rank, LAYOUT) for rank in (1, 15, 16, 99)] == [1, 15, None, None]
    assert [rank_within(linear, rank, Layout(Pivoted())) for rank in (31, 32, 33)] == [None, None, None]
    assert rank_within(linear, 20, Layout(Pivoted())) == 20
    # Beside 8 bits a number and a scale a row, as the factors have.
    assert [rank_within(linear, rank, Layout(precision=Bits8())) for rank in (15, 16)] == [15, None]


def test_a_budget_that_cannot_be_met_is_told_by_its_option() -> None:
    with pytest.raises(EckartError, match=r"Use targets\.x\.keep 1 or more"):
        Uniform(floor=1.0).ranks_within(LINEARS, Budgets(1.0, {PATHS[0]: Size("targets.x.keep", 0.3)}), LAYOUT)
