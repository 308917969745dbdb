from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eckart.maths.sparsity import (
    from_pruned,
    group_count,
    mask_width,
    numbers_per_row,
    pack_mask,
    pack_places,
    prune,
    unpack_mask,
)


@given(rows=st.integers(1, 5), columns=st.integers(1, 21), seed=st.integers(0, 100))
def test_the_two_largest_of_four_stay_where_they_were(rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    kept, places = prune(weight)
    packed = pack_places(places)
    assert packed.dtype is torch.uint8
    assert packed.shape == (rows, (group_count(columns) + 1) // 2)
    pruned = from_pruned(kept, packed, columns)
    for row in range(rows):
        for start in range(0, columns, 4):
            group, found = weight[row, start : start + 4], pruned[row, start : start + 4]
            expected = torch.zeros_like(group)
            largest = group.abs().argsort(descending=True)[:2]
            expected[largest] = group[largest]
            assert torch.equal(found, expected)


def test_numbers_that_inputs_make_large_stay() -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    kept, places = prune(weight, torch.diag(torch.tensor([100.0, 0.01, 0.0, 4.0], dtype=torch.float64)))
    assert kept.tolist() == [[1, 4]]
    assert places.tolist() == [[0, 3]]
    # Inputs that never are anything else than zero tell nothing.
    assert prune(weight, torch.zeros(4, 4, dtype=torch.float64))[0].tolist() == [[3, 4]]


@pytest.mark.parametrize("columns", [1, 2, 3, 5])
def test_a_row_that_is_no_whole_number_of_groups_is_filled_up(columns: int) -> None:
    weight = torch.arange(1.0, columns + 1)[None]
    kept, places = prune(weight)
    assert kept.shape == places.shape == (1, 2 * group_count(columns))
    assert from_pruned(kept, pack_places(places), columns).count_nonzero() == sum(
        min(2, columns - start) for start in range(0, columns, 4)
    )


@pytest.mark.parametrize("columns", [1, 7, 8, 9, 30])
def test_masks_take_a_bit_a_place(columns: int) -> None:
    mask = torch.rand(5, columns, generator=torch.Generator().manual_seed(0)) < 0.5
    packed = pack_mask(mask)
    assert packed.shape == (5, mask_width(columns))
    assert packed.dtype is torch.uint8
    assert torch.equal(unpack_mask(packed, columns), mask)
    assert pack_mask(torch.tensor([[True, False, True]])).tolist() == [[5]]


def test_how_many_numbers_of_a_row_stay() -> None:
    assert numbers_per_row(33, 1.1) == 30  # and not 29, as the quotient in binary would have it
    assert [numbers_per_row(columns, 2.0) for columns in (1, 2, 3, 4, 9)] == [1, 1, 1, 2, 4]
    assert numbers_per_row(5, 1.0) == 5
