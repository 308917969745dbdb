from __future__ import annotations

import pytest
from tests.conftest import make_model

from eckart.blocks.discovery import find_blocks
from eckart.errors import EckartError
from eckart.methods.allocation import Budgets, Importance, Uniform
from eckart.methods.allocation.paired import as_one, pairs_of
from eckart.methods.layout import Layout
from eckart.methods.sensitivity.layer_statistics import LayerStatistics, shapes_of


@pytest.fixture(scope="module")
def linears() -> tuple[LayerStatistics, ...]:
    return shapes_of(find_blocks(make_model("llama"), pairs=True))


def test_pairs_are_one_for_whoever_chooses(linears: tuple[LayerStatistics, ...]) -> None:
    found = [as_one(members) for members in pairs_of(linears).values()]
    assert len(found) == 9  # three in each of three blocks
    assert sum(pair.dense_bytes for pair in found) == sum(linear.dense_bytes for linear in linears)
    shapes = {pair.kind.partition(" ")[0]: (pair.shape, pair.index) for pair in found}
    # Hidden units have a row in gate and up, and a column in down; no place is stored.
    assert shapes["units"] == ((48, 3 * 32), 0)
    # A direction of values has a row for each of 2 heads of values, and a column for each of 4 heads.
    assert shapes["values"] == ((8, 6 * 32), 6)
    # A plane has two rows for each of 4 heads of queries and 2 of keys.
    assert shapes["keys"] == ((4, 12 * 32), 12)


@pytest.mark.parametrize(
    "allocation", [Uniform(multiple=1), Uniform(multiple=1, fill_budget=False), Importance(multiple=1)]
)
def test_all_linears_of_a_pair_have_its_width(
    linears: tuple[LayerStatistics, ...], allocation: Uniform | Importance
) -> None:
    for keep in (0.3, 0.6, 0.9):
        ranks = allocation.ranks_within(linears, Budgets(keep), Layout())
        stored = 0
        for linear in linears:
            part, rank = linear.part, ranks[linear.path]
            assert part is not None
            width = part.width if rank is None else rank // part.rows
            first = pairs_of(linears)
            (members,) = (m for m in first.values() if linear in m)
            lead, lead_part = ranks[members[0].path], members[0].part
            assert lead_part is not None
            assert width == (part.width if lead is None else lead // lead_part.rows)
            layout = Layout() if rank is None else Layout().keeping(part.side, direct=part.direct)
            stored += layout.bytes(*linear.shape, rank)
        assert stored <= keep * sum(linear.dense_bytes for linear in linears)


def test_a_budget_that_no_width_meets_is_refused(linears: tuple[LayerStatistics, ...]) -> None:
    with pytest.raises(EckartError, match="smallest ranks allowed take"):
        Uniform(multiple=8).ranks_within(linears, Budgets(0.01), Layout())


def test_all_is_kept_at_once(linears: tuple[LayerStatistics, ...]) -> None:
    assert set(Uniform().ranks_within(linears, Budgets(1.0), Layout()).values()) == {None}
