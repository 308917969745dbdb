"""Penalties of rank and their derivatives, against singular values, finite differences and autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from eckart.maths.rank_penalty import leading_right, leading_vectors, stable_rank, tail

SHAPES = [(5, 8), (8, 5), (6, 6)]
RANK = 2


def matrix_of(shape: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def tail_of(matrix: Tensor) -> tuple[Tensor, Tensor]:
    return tail(matrix, leading_vectors(matrix, RANK))


def stable_rank_of(matrix: Tensor) -> tuple[Tensor, Tensor]:
    return stable_rank(matrix, leading_right(matrix, 500))


def tail_by_values(matrix: Tensor) -> Tensor:
    values: Tensor = torch.linalg.svdvals(matrix)
    return values[RANK:].square().sum()


def stable_rank_by_values(matrix: Tensor) -> Tensor:
    values: Tensor = torch.linalg.svdvals(matrix)
    return values.square().sum() / values[0].square()


CASES = [(tail_of, tail_by_values), (stable_rank_of, stable_rank_by_values)]
IDS = ["tail", "stable-rank"]


@pytest.mark.parametrize(("ours", "by_values"), CASES, ids=IDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_derivatives_are_those_of_the_singular_values(
    ours: Callable[[Tensor], tuple[Tensor, Tensor]], by_values: Callable[[Tensor], Tensor], shape: tuple[int, int]
) -> None:
    matrix = matrix_of(shape).requires_grad_(True)
    expected = by_values(matrix)
    (by_autograd,) = torch.autograd.grad(expected, matrix)
    value, derivative = ours(matrix.detach())
    torch.testing.assert_close(value, expected.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(derivative, by_autograd, rtol=1e-6, atol=1e-8)
    step, differences = 1e-6, torch.zeros(shape).double()
    for place in range(matrix.numel()):
        moved = matrix.detach().clone().flatten()
        moved[place] += step
        up = by_values(moved.view(shape))
        moved[place] -= 2 * step
        differences.view(-1)[place] = (up - by_values(moved.view(shape))) / (2 * step)
    torch.testing.assert_close(derivative, differences, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_vectors_of_a_matrix_nearby_bound_the_tail_from_above(shape: tuple[int, int]) -> None:
    matrix = matrix_of(shape)
    near = matrix + 0.01 * matrix_of(shape, 1)
    value, _ = tail(near, leading_vectors(matrix, RANK))
    least = tail_by_values(near)
    assert least < value < 1.01 * least


def test_a_matrix_of_low_rank_has_no_tail() -> None:
    low = matrix_of((6, 1)) @ matrix_of((1, 9), 1)
    vectors = leading_vectors(low, RANK)
    assert vectors.shape == (6, 1)
    value, derivative = tail(low, vectors)
    assert float(value) < 1e-24
    assert derivative.abs().max() < 1e-12
    assert float(stable_rank(low, leading_right(low, 5))[0]) == pytest.approx(1)


def test_of_zeros_there_is_nothing() -> None:
    zeros = torch.zeros(4, 7).double()
    for value, derivative in (tail_of(zeros), stable_rank_of(zeros)):
        assert float(value) == 0
        assert torch.equal(derivative, zeros)


def test_power_iteration_goes_on_from_a_vector_nearby() -> None:
    matrix = matrix_of((7, 9))
    exact = torch.linalg.svd(matrix)[2][0]
    start = exact + 0.01 * matrix_of((1, 9), 2)[0]
    errors = [1 - float((leading_right(matrix, 3, first) @ exact).abs()) for first in (start, None)]
    assert errors[0] < errors[1]
    assert errors[0] < 1e-4
    assert leading_right(matrix, 0).norm() == pytest.approx(1)
