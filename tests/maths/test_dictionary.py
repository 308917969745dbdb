from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eckart.maths.dictionary import (
    interleaved,
    largest_in_rows,
    largest_two_of_four,
    largest_with_spare,
    nearest_orthonormal,
    refit_coefficients,
    refit_dictionary,
    ridge_dictionary,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_which_numbers_stay() -> None:
    scores = torch.tensor([[9.0, 8.0, 7.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    assert largest_in_rows(scores, 2).tolist() == [[True, True, False, False], [False, False, True, True]]
    assert not largest_in_rows(scores, 0).any()
    # Each row has one of its own, and the two that are left over go to the first.
    assert largest_with_spare(scores, 2, 0.5).tolist() == [[True, True, True, False], [False, False, False, True]]
    assert torch.equal(largest_with_spare(scores, 2, 0.0), largest_in_rows(scores, 2))
    assert largest_with_spare(scores, 2, 1.0).sum() == 4
    for spare in (0.0, 0.005, 0.1, 1.0):
        mask = largest_with_spare(normal(30, 40).abs(), 20, spare)
        assert mask.sum() == 30 * 20
        assert int(mask.sum(dim=1).min()) >= 20 - round(spare * 20)


def test_two_of_four_neighbours() -> None:
    mask = largest_two_of_four(normal(5, 10).abs())
    assert mask[:, :8].reshape(5, 2, 4).sum(dim=-1).tolist() == [[2, 2]] * 5
    assert mask[:, 8:].all()  # the last group is filled up with nothing


@pytest.mark.parametrize("count", [1, 4, 8, 11, 16])
def test_neighbours_are_of_different_quarters(count: int) -> None:
    order = interleaved(count)
    assert order.sort().values.tolist() == list(range(count))
    if count == 16:
        assert order[:4].tolist() == [0, 4, 8, 12]


def test_the_ridge_is_a_share_of_the_mean_energy() -> None:
    sparse, target = normal(12, 5), normal(12, 7, seed=1)
    ridge = 1e-3 * float((sparse**2).sum()) / 5
    expected = torch.linalg.inv(sparse.T @ sparse + ridge * torch.eye(5)) @ sparse.T @ target
    torch.testing.assert_close(ridge_dictionary(sparse, target), expected)
    assert torch.equal(ridge_dictionary(0 * sparse, target), torch.zeros(5, 7, dtype=torch.float64))


@pytest.mark.parametrize("with_metric", [False, True])
def test_atoms_are_the_best_for_their_coefficients(with_metric: bool) -> None:
    sparse, target, root = normal(12, 5), normal(12, 7, seed=1), normal(12, 12, seed=2)
    side = root.T if with_metric else torch.eye(12, dtype=torch.float64)
    found = refit_dictionary(sparse, normal(5, 7, seed=3), target, side.T @ side if with_metric else None)
    torch.testing.assert_close(found, torch.linalg.lstsq(side @ sparse, side @ target).solution)
    # An atom that nothing uses stays.
    sparse[:, 2] = 0
    start = normal(5, 7, seed=3)
    torch.testing.assert_close(refit_dictionary(sparse, start, target)[2], start[2])


def test_coefficients_are_the_best_in_their_places() -> None:
    atoms, target, inputs = normal(6, 9), normal(8, 9, seed=1), normal(9, 50, seed=2)
    mask = largest_with_spare(normal(8, 6, seed=3).abs(), 3, 0.4)
    assert len(set(mask.sum(dim=1).tolist())) > 1
    found = refit_coefficients(torch.zeros(8, 6).double(), mask, atoms, target, inputs @ inputs.T)
    assert not found[~mask].any()
    for row, places in enumerate(mask):
        wanted = torch.linalg.lstsq((atoms[places] @ inputs).T, (target[row] @ inputs)[:, None]).solution[:, 0]
        torch.testing.assert_close(found[row, places], wanted)


def test_atoms_that_cannot_be_told_apart_leave_their_rows_as_they_are() -> None:
    atoms, target = normal(4, 9), normal(3, 9, seed=1)
    atoms[1] = atoms[0]
    atoms[2] = 0
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1]]).bool()
    start = normal(3, 4, seed=2) * mask
    found = refit_coefficients(start, mask, atoms, target, torch.eye(9).double())
    assert torch.isfinite(found).all()
    lost = [(target - sparse @ atoms).square().sum(dim=1) for sparse in (found, start)]
    assert (lost[0] <= lost[1]).all()
    assert lost[0][2] < lost[1][2]


def test_the_nearest_orthonormal_rows() -> None:
    matrix = normal(3, 7)
    found = nearest_orthonormal(matrix)
    torch.testing.assert_close(found @ found.T, torch.eye(3).double())
    for seed in range(5):
        other = torch.linalg.qr(normal(7, 3, seed=seed + 1))[0].T
        assert (matrix - found).norm() <= (matrix - other).norm()


def test_a_weight_made_of_sparse_rows_and_orthonormal_atoms_is_a_fixed_point() -> None:
    atoms = nearest_orthonormal(normal(4, 9))
    sparse = normal(12, 4, seed=1) * largest_in_rows(normal(12, 4, seed=2).abs(), 2)
    target = sparse @ atoms
    torch.testing.assert_close(target @ atoms.T, sparse)
    torch.testing.assert_close(nearest_orthonormal(sparse.T @ target), atoms)
