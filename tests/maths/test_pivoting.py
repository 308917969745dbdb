from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eckart.maths.pivoting import LARGEST_COEFFICIENT, SMALLEST_SIZE, choose_pivots, other_rows

DOUBLE = torch.float64


def matrix(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def rebuilt(second: torch.Tensor, pivots: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    result = torch.empty_like(second)
    result[pivots] = second[pivots]
    result[other_rows(pivots, len(second))] = coefficients @ second[pivots]
    return result


@settings(max_examples=150)
@given(
    rows=st.integers(2, 40),
    columns=st.integers(1, 39),
    rank=st.integers(0, 39),
    spread=st.sampled_from([0.0, 3.0, 12.0]),
    seed=st.integers(0, 1000),
)
def test_any_matrix_is_rebuilt_from_its_pivots(rows: int, columns: int, rank: int, spread: float, seed: int) -> None:
    """Of any rank, zero included, and with columns that differ by many orders of magnitude."""
    columns = min(columns, rows - 1)
    rank = min(rank, columns)
    scale = 10 ** (-spread * torch.linspace(0, 1, columns, dtype=DOUBLE))
    second = matrix(rows, rank, seed) @ matrix(rank, columns, seed + 1) * scale
    pivots, coefficients = choose_pivots(second)
    assert pivots.tolist() == sorted(set(pivots.tolist()))
    assert len(pivots) == columns
    assert torch.isfinite(coefficients).all()
    assert coefficients.abs().max() <= LARGEST_COEFFICIENT * (1 + 1e-6)
    # Rounding is relative to the largest number of each column of the matrix.
    size = second.abs().amax(dim=0).clamp_min(1e-300)
    assert ((rebuilt(second, pivots, coefficients) - second).abs() / size).max() < 1e-8


@given(seed=st.integers(0, 1000), spread=st.sampled_from([0.0, 1.0, 6.0]))
def test_sizes_of_the_outputs_shift_the_bound(seed: int, spread: float) -> None:
    second = matrix(12, 4, seed)
    sizes = 10 ** (-spread * torch.rand(12, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed)))
    pivots, coefficients = choose_pivots(second, sizes)
    torch.testing.assert_close(rebuilt(second, pivots, coefficients), second)
    held = sizes.clamp_min(SMALLEST_SIZE * sizes.max())
    scaled = coefficients * (held[pivots] / held[other_rows(pivots, 12), None]).sqrt()
    assert scaled.abs().max() <= LARGEST_COEFFICIENT * (1 + 1e-6)


def test_outputs_that_are_always_zero_have_no_size() -> None:
    second = matrix(12, 4, 0)
    assert torch.equal(choose_pivots(second, torch.zeros(12))[0], choose_pivots(second)[0])


def test_equal_rows_have_one_pivot_between_them() -> None:
    second = matrix(6, 3, 0).repeat_interleave(2, dim=0)
    pivots, coefficients = choose_pivots(second)
    assert len(set((pivots // 2).tolist())) == 3
    torch.testing.assert_close(rebuilt(second, pivots, coefficients), second)


def test_coefficients_stay_small_where_those_of_a_triangular_factorisation_grow() -> None:
    """Wilkinson's matrix, on which partial pivoting doubles at each step."""
    size = 30
    growing = torch.eye(size, dtype=DOUBLE) - torch.ones(size, size, dtype=DOUBLE).tril(-1)
    second = torch.cat([growing, torch.ones(1, size, dtype=DOUBLE)])
    basis = torch.linalg.qr(second)[0]
    naive = torch.linalg.solve(basis[:size], basis[size:], left=False)
    assert naive.abs().max() > 1e6
    _, coefficients = choose_pivots(second)
    assert coefficients.abs().max() <= LARGEST_COEFFICIENT * (1 + 1e-6)


def test_the_choice_does_not_depend_on_how_the_matrix_is_factored() -> None:
    second, mix = matrix(12, 5, 0), matrix(5, 5, 1)
    for one, other in zip(choose_pivots(second), choose_pivots(second @ mix), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("rows", "rank"), [(3, 3), (3, 4), (3, 0)])
def test_some_row_must_be_left(rows: int, rank: int) -> None:
    with pytest.raises(ValueError, match="has 1 to 2 pivots"):
        choose_pivots(torch.ones(rows, rank, dtype=DOUBLE))
