"""What holds for every structure."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from eckart.layers import MaskedLinear, SparseLinear
from eckart.methods.precision import Bits4, Bits8, Bits16, SemiStructured
from eckart.methods.structure import STRUCTURES, Hybrid, Structure

sides = st.integers(1, 60)


SPARSE = (SparseLinear, MaskedLinear)
BASES = [Hybrid(base=Bits8()), Hybrid(base=Bits4(group=5)), Hybrid(base=SemiStructured())]


@pytest.mark.parametrize("structure", [*(kind.model_validate({}) for kind in STRUCTURES.values()), *BASES], ids=str)
@settings(max_examples=30)
@given(out_features=sides, in_features=sides)
def test_what_is_counted_is_what_the_layer_holds(structure: Structure, out_features: int, in_features: int) -> None:
    assert structure.numbers(out_features, in_features, None) == out_features * in_features
    for rank in range(1, structure.highest_rank(out_features, in_features) + 1):
        linear = nn.Linear(in_features, out_features, bias=False, device="meta")
        layer = structure.empty_like(linear, rank, Bits16())
        children: list[Any] = list(layer.children())
        matrices = structure.matrices(out_features, in_features, rank)
        stored = [c.values.numel() if isinstance(c, SPARSE) else c.out_features * c.in_features for c in children]
        assert structure.numbers(out_features, in_features, rank) == sum(stored)
        assert [matrix[:2] for matrix in matrices] == [(child.out_features, child.in_features) for child in children]
        schemes = [None if matrix.precision is None else matrix.precision.scheme for matrix in matrices]
        assert schemes == [getattr(child, "scheme", None) for child in children]
        assert structure.index_bytes(out_features) == sum(b.nbytes for b in layer.buffers(recurse=False))
