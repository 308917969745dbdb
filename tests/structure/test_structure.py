"""What holds for every structure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from eckart.structure import STRUCTURES, Structure, dense_bytes

ALL = list(STRUCTURES.values())
sides = st.integers(1, 60)


def test_dense_bytes() -> None:
    assert dense_bytes(10, 20) == 400
    assert all(structure.bytes(10, 20, None) == 400 for structure in ALL)


@pytest.mark.parametrize("structure", ALL)
@given(out_features=sides, in_features=sides)
def test_costs_are_those_of_the_layer_and_rise_with_the_rank(
    structure: Structure, out_features: int, in_features: int
) -> None:
    costs = []
    for rank in range(1, structure.highest_rank(out_features, in_features) + 1):
        layer = structure.layer.empty_like(nn.Linear(in_features, out_features, bias=False, device="meta"), rank)
        assert structure.numbers(out_features, in_features, rank) == sum(p.numel() for p in layer.parameters())
        stored = 2 * sum(p.numel() for p in layer.parameters()) + sum(b.nbytes for b in layer.buffers())
        assert structure.bytes(out_features, in_features, rank) == stored
        costs.append(stored)
    assert costs == sorted(set(costs))


@pytest.mark.parametrize("structure", ALL)
@given(out_features=sides, in_features=sides, data=st.data())
def test_the_largest_rank_within_a_budget_by_brute_force(
    structure: Structure, out_features: int, in_features: int, data: st.DataObject
) -> None:
    dense = dense_bytes(out_features, in_features)
    budget = data.draw(st.integers(0, dense + 10))
    found = structure.largest_rank(out_features, in_features, budget)
    ranks = range(1, structure.highest_rank(out_features, in_features) + 1)
    cheaper = [rank for rank in ranks if structure.bytes(out_features, in_features, rank) < dense]
    if budget >= dense or not cheaper:
        assert found is None
        return
    fitting = [rank for rank in cheaper if structure.bytes(out_features, in_features, rank) <= budget]
    assert found == max(fitting, default=1)
