from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.layers.helpers import from_factors
from torch import nn

from eckart.layers import PivotedLinear
from eckart.methods.structure import Pivoted


def test_the_split_between_two_factors_makes_no_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    second = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    first = torch.randn(6, 20, generator=generator, dtype=torch.float64)
    split = torch.logspace(-2, 2, 6, dtype=torch.float64)
    linear = nn.Linear(20, 30)
    layers = []
    for b, a in ((second, first), (second * split, first / split[:, None])):
        layers.append(from_factors(PivotedLinear, linear, b, a))
    assert torch.equal(layers[0].index, layers[1].index)
    for one, two in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        torch.testing.assert_close(one, two)


@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(1, 10), st.data())
def test_the_rows_are_put_together_again(seed: int, m: int, n: int, data: st.DataObject) -> None:
    """``first`` is rows of the weight, ``second`` combines the others of them, and none by much more than one."""
    rank = data.draw(st.integers(1, Pivoted().highest_rank(m, n)))
    generator = torch.Generator().manual_seed(seed)
    second = torch.randn(m, rank, generator=generator, dtype=torch.float64)
    first = torch.randn(rank, n, generator=generator, dtype=torch.float64)
    found = Pivoted().fitter.arrange(second, first)
    assert found.first_rows is not None
    assert sorted([*found.first_rows.tolist(), *found.second_rows.tolist()]) == list(range(m))
    weight = second @ first
    torch.testing.assert_close(found.first, weight[found.first_rows])
    torch.testing.assert_close(found.second @ found.first, weight[found.second_rows], rtol=1e-7, atol=1e-7)
    layer = Pivoted().fitter.factored(nn.Linear(n, m).double(), second, first)
    torch.testing.assert_close(layer.dense_weight(), weight, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("large_last", [True, False])
def test_pivots_are_rows_whose_outputs_are_small(large_last: bool) -> None:
    """Of two equal sets of rows: what is rounded in a pivot is relative to its outputs, and goes to all others."""
    half = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sizes = [torch.full((5,), size, dtype=torch.float64) for size in ((1, 100) if large_last else (100, 1))]
    second, first = torch.cat([half, half]), torch.eye(3, dtype=torch.float64)
    rows = Pivoted().fitter.arrange(second, first, torch.cat(sizes)).first_rows
    assert rows is not None
    assert (rows < 5).all() if large_last else (rows >= 5).all()
