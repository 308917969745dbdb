"""Left singular vectors from Gram matrices, against an SVD in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eckart.maths.left_singular import RESOLVED, eigenvectors, left_singular_vectors, resolved


def matrix(rows: int, columns: int, decades: float, seed: int = 0) -> Tensor:
    """Return a matrix with singular values from 1 down by so many powers of ten."""
    generator = torch.Generator().manual_seed(seed)

    def orthonormal(size: int) -> Tensor:
        basis: Tensor = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
        return basis

    size = min(rows, columns)
    values = torch.logspace(0, -decades, size, dtype=torch.float64)
    return orthonormal(rows)[:, :size] * values @ orthonormal(columns)[:size]


def lost(matrix: Tensor, left: Tensor, rank: int) -> Tensor:
    """Return ``||M - U_r U_r^T M||^2``."""
    return (matrix - left[:, :rank] @ (left[:, :rank].T @ matrix)).square().sum()


@pytest.mark.parametrize("shape", [(20, 20), (12, 40), (40, 12), (1, 7), (7, 1)])
@pytest.mark.parametrize("decades", [0, 3, 6, 9])
@pytest.mark.parametrize("scale", [1e-120, 1.0, 1e120])
def test_as_good_as_an_svd(shape: tuple[int, int], decades: int, scale: float) -> None:
    whole = scale * matrix(*shape, decades)
    expected, values, _ = torch.linalg.svd(whole / scale, full_matrices=False)
    left, found = left_singular_vectors(whole)
    assert left.shape == expected.shape
    torch.testing.assert_close(found / scale, values, rtol=1e-4, atol=1e-12)
    torch.testing.assert_close(left.T @ left, torch.eye(len(values), dtype=torch.float64), rtol=0, atol=1e-7)
    for rank in range(len(values)):
        best = lost(whole / scale, expected, rank)
        assert lost(whole / scale, left, rank) <= best * (1 + 1e-6) + 1e-22, rank


@pytest.mark.parametrize("shape", [(20, 20), (12, 40), (40, 12)])
@pytest.mark.parametrize("rank", [0, 1, 5, 11])
def test_of_a_matrix_of_low_rank_only_what_is_there_is_found(shape: tuple[int, int], rank: int) -> None:
    whole = matrix(shape[0], max(rank, 1), 2)[:, :rank] @ matrix(max(rank, 1), shape[1], 0)[:rank]
    left, values = left_singular_vectors(whole)
    assert left.shape == (shape[0], rank)
    assert len(values) == rank
    torch.testing.assert_close(left @ (left.T @ whole), whole)


@pytest.mark.parametrize("shape", [(20, 20), (12, 40), (40, 12)])
@pytest.mark.parametrize("wanted", [1, 4, 9])
def test_what_is_wanted_is_as_good_and_the_rest_has_its_size(shape: tuple[int, int], wanted: int) -> None:
    whole = matrix(*shape, 9)
    expected, values, _ = torch.linalg.svd(whole, full_matrices=False)
    left, found = left_singular_vectors(whole, wanted)
    assert wanted <= left.shape[1] <= len(found) <= len(values)
    torch.testing.assert_close(found, values[: len(found)], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(lost(whole, left, wanted), lost(whole, expected, wanted), rtol=1e-6, atol=1e-22)


def test_components_below_the_rounding_of_a_gram_matrix_are_told_apart() -> None:
    whole = torch.diag(torch.tensor([1.0, 3e-9, 2e-9, 1e-9], dtype=torch.float64))
    values = eigenvectors(whole @ whole.T)[1]
    assert resolved(values) == 1
    assert values[1] < RESOLVED
    for seen in (whole, torch.cat([whole, whole])):
        left, found = left_singular_vectors(seen)
        torch.testing.assert_close(found / found[0], whole.diagonal(), rtol=1e-6, atol=0)
        assert torch.allclose(left[:4].abs() / left[:4].abs().amax(dim=0), torch.eye(4, dtype=torch.float64), atol=1e-6)


def test_of_nothing_there_are_none() -> None:
    for shape in ((3, 5), (5, 3), (0, 4), (4, 0)):
        left, values = left_singular_vectors(torch.zeros(shape, dtype=torch.float64))
        assert left.shape == (shape[0], 0)
        assert values.shape == (0,)
