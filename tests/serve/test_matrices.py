"""Rows, columns and stacks of matrices, against rows and columns of their dense weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.serve.helpers import inputs_of, matrix_of

from eckart.errors import ServingError
from eckart.layers import dense_weight_of
from eckart.serve.matrices import kind_of, moved, stack, take_columns, take_rows

KINDS = ["dense", "sparse", "8", "8-groups", "4", "4-row"]


@pytest.mark.parametrize("kind", KINDS)
def test_rows(kind: str) -> None:
    matrix: Any = matrix_of(kind)
    rows = torch.tensor([7, 0, 3])
    taken = take_rows(matrix, rows)
    assert torch.equal(dense_weight_of(taken), dense_weight_of(matrix)[rows])
    # Not to the last bit: a product of fewer rows may be summed in another order.
    torch.testing.assert_close(taken(inputs_of()), matrix(inputs_of())[:, rows], rtol=1e-12, atol=1e-12)
    assert (taken.in_features, taken.out_features) == (32, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [slice(0, 16), slice(16, 32), slice(8, 16), slice(24, 32), slice(0, 32)])
def test_columns(kind: str, columns: slice) -> None:
    matrix: Any = matrix_of(kind)
    taken = take_columns(matrix, columns)
    assert torch.equal(dense_weight_of(taken), dense_weight_of(matrix)[:, columns])
    assert torch.allclose(taken(inputs_of()[:, columns]), inputs_of()[:, columns] @ dense_weight_of(taken).T)


def test_columns_of_a_short_last_group_and_of_an_odd_number() -> None:
    matrix: Any = matrix_of("4", inputs=40)  # groups of 16, 16 and 8
    assert torch.equal(dense_weight_of(take_columns(matrix, slice(32, 40))), dense_weight_of(matrix)[:, 32:])
    odd: Any = matrix_of("4-row", inputs=9)
    assert torch.equal(dense_weight_of(take_columns(odd, slice(3, 6))), dense_weight_of(odd)[:, 3:6])
    sparse: Any = matrix_of("sparse", inputs=30)  # the last group is filled up
    assert torch.equal(dense_weight_of(take_columns(sparse, slice(16, 30))), dense_weight_of(sparse)[:, 16:])


def test_codes_are_not_rounded_again() -> None:
    matrix: Any = matrix_of("4")
    taken: Any = take_columns(matrix, slice(8, 24))
    assert taken.codes.dtype is torch.uint8
    assert taken.scheme.group == 8


@pytest.mark.parametrize(
    ("kind", "columns", "words"),
    [
        ("4", slice(0, 12), "cut groups of 16 numbers that share a scale into pieces of 4"),
        ("sparse", slice(0, 6), "cut a group of 4 inputs of which 2 are stored"),
        ("sparse", slice(2, 32), "cut a group of 4 inputs of which 2 are stored"),
    ],
)
def test_cuts_that_are_too_small_are_refused(kind: str, columns: slice, words: str) -> None:
    with pytest.raises(ServingError, match=words):
        take_columns(matrix_of(kind), columns)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_has_the_outputs_of_all(kind: str) -> None:
    matrices: list[Any] = [matrix_of(kind, out) for out in (5, 3, 8)]
    stacked = stack(matrices)
    expected = torch.cat([matrix(inputs_of()) for matrix in matrices], dim=-1)
    assert torch.allclose(stacked(inputs_of()), expected, rtol=1e-12)
    assert {kind_of(matrix) for matrix in matrices} == {kind_of(stacked)}


def test_different_kinds_are_told_apart() -> None:
    kinds: list[Any] = [matrix_of(kind) for kind in KINDS]
    assert len({kind_of(matrix) for matrix in (*kinds, matrix_of("dense", inputs=16))}) == 7


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_moved_shares_no_memory(kind: str) -> None:
    matrix: Any = matrix_of(kind)
    before = dense_weight_of(matrix).clone()
    copy = moved(matrix, torch.device("cpu"))
    assert torch.equal(dense_weight_of(copy), before)
    with torch.no_grad():
        for tensor in (*matrix.parameters(), *matrix.buffers()):
            tensor.zero_()
    assert torch.equal(dense_weight_of(copy), before)
