"""What holds for every structure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from eckart.structure import STRUCTURES, Structure

sides = st.integers(1, 60)


@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=str)
@given(out_features=sides, in_features=sides)
def test_what_is_counted_is_what_the_layer_holds(structure: Structure, out_features: int, in_features: int) -> None:
    assert structure.numbers(out_features, in_features, None) == out_features * in_features
    for rank in range(1, structure.highest_rank(out_features, in_features) + 1):
        layer = structure.layer.empty_like(nn.Linear(in_features, out_features, bias=False, device="meta"), rank)
        assert structure.numbers(out_features, in_features, rank) == sum(p.numel() for p in layer.parameters())
        assert structure.matrices(out_features, in_features, rank) == [tuple(p.shape) for p in layer.parameters()]
        assert structure.index_bytes(out_features) == sum(buffer.nbytes for buffer in layer.buffers())
