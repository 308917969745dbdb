r"""A weight as ``S V``: k atoms, the rows of V (k, n), of which each row of S (m, k) combines only some.

The loss is ``||(W - S V) R||^2``, with R a root of the second moment of the inputs. In white space the weight is
``T = W R`` and the dictionary ``D = V R``. With all of S this is plain low rank.

Everything here is a pure function of float64 tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from eckart.maths.sparsity import GROUP, group_count
from eckart.maths.whitening import FLOAT64_FLOOR, whiten

RIDGE = 1e-3  # of the mean energy of a column, as published (ROCKET)
LEAST_RIDGE = 1e-6  # as published; counts where all is zero
BATCH_NUMBERS = 2**23  # of small systems that are solved at once


def largest_in_rows(scores: Tensor, count: int) -> Tensor:
    """Return which are the ``count`` largest of each row, (m, k) bool."""
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, scores.topk(count, dim=1).indices, True)


def largest_with_spare(scores: Tensor, count: int, spare: float) -> Tensor:
    """Return ``count`` a row on average, (m, k) bool: of each row the largest, and a share of them by all of S.

    Args:
        scores: (m, k), no less than 0.
        count: on average.
        spare: share of a row's numbers, rounded to whole ones, that goes to the largest of what all rows leave.
    """
    own = count - round(spare * count)
    mask = largest_in_rows(scores, own).flatten()
    others = torch.where(mask, -1.0, scores.flatten())
    mask[others.topk(len(scores) * (count - own)).indices] = True
    return mask.view(scores.shape)


def largest_two_of_four(scores: Tensor) -> Tensor:
    """Return which are the 2 largest of each 4 neighbours in a row, (m, k) bool."""
    rows, columns = scores.shape
    groups = group_count(columns)
    filled = functional.pad(scores, (0, groups * GROUP - columns), value=-1.0).reshape(-1, GROUP)
    return largest_in_rows(filled, GROUP // 2).reshape(rows, -1)[:, :columns]


def interleaved(count: int) -> Tensor:
    """Return an order of atoms that puts those of different size beside one another, (count,) int64.

    Of four neighbours one is then of each quarter: where atoms come by falling size, no group has large ones alone.
    """
    groups = group_count(count)
    order = torch.arange(groups * GROUP).reshape(GROUP, groups).T.flatten()
    return order[order < count]


def ridge_dictionary(sparse: Tensor, target: Tensor) -> Tensor:
    """Return ``(S^T S + mu I)^-1 S^T W``, (k, n), with ``mu`` a share of the mean energy of a column of S (ROCKET).

    It is the same for all inputs: ``(S^T S + mu I)^-1 S^T T R^-1`` is that.

    Args:
        sparse: S, (m, k).
        target: W, (m, n).
    """
    gram = sparse.T @ sparse
    ridge = max(LEAST_RIDGE, RIDGE * float(gram.trace()) / len(gram))
    factor = torch.linalg.cholesky(gram + ridge * torch.eye(len(gram)).to(gram))
    return torch.cholesky_solve(sparse.T @ target, factor)


def refit_dictionary(sparse: Tensor, atoms: Tensor, target: Tensor, metric: Tensor | None = None) -> Tensor:
    """Return the atoms of least loss for given coefficients, (k, n), whatever the inputs are.

    Atoms that no coefficient tells apart stay as they are.

    Args:
        sparse: S, (m, k).
        atoms: V, (k, n), to start from.
        target: W, (m, n).
        metric: G of the outputs, (m, m); None for the identity.
    """
    weighed = sparse if metric is None else metric @ sparse
    inverse = whiten(weighed.T @ sparse, floor=FLOAT64_FLOOR).inverse
    return atoms + inverse.T @ (inverse @ (weighed.T @ (target - sparse @ atoms)))


def refit_coefficients(sparse: Tensor, mask: Tensor, atoms: Tensor, target: Tensor, second_moment: Tensor) -> Tensor:
    """Return the coefficients of least loss in the places of a mask, (m, k); a row that would lose more stays.

    Each row is a system of as many unknowns as it has places. One whose atoms cannot be told apart is left as it is.

    Args:
        sparse: S, (m, k), to start from; zero outside of the mask.
        mask: (m, k) bool.
        atoms: V, (k, n), as they are stored.
        target: W, (m, n).
        second_moment: of the inputs, (n, n).
    """
    seen = atoms @ second_moment
    gram, right = seen @ atoms.T, target @ seen.T
    widest = int(mask.sum(dim=1).max())
    places = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :widest]
    there = mask.gather(1, places)
    found = sparse.clone()
    batch = max(1, BATCH_NUMBERS // widest**2)
    for start in range(0, len(sparse), batch):
        rows = slice(start, start + batch)
        solved, kept = _solve_rows(gram, right[rows], places[rows], there[rows])
        found[rows] = torch.where(
            kept[:, None], torch.zeros_like(found[rows]).scatter(1, places[rows], solved), found[rows]
        )

    def lost(rows: Tensor) -> Tensor:
        return ((rows @ gram - 2 * right) * rows).sum(dim=1)

    return torch.where((lost(found) < lost(sparse))[:, None], found, sparse)


def _solve_rows(gram: Tensor, right: Tensor, places: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Return the solutions of some rows, (rows, widest), and which of them could be solved, (rows,) bool."""
    scale = gram.diagonal().clamp_min(torch.finfo(gram.dtype).tiny).sqrt()
    both = there[:, :, None] & there[:, None, :]
    systems = gram[places[:, :, None], places[:, None, :]] / (scale[places][:, :, None] * scale[places][:, None, :])
    # Places that a row does not have are unknowns of their own, whose answer is zero.
    systems = torch.where(both, systems, torch.eye(places.shape[1]).to(gram))
    factors, failed = torch.linalg.cholesky_ex(systems)
    wanted = torch.where(there, right.gather(1, places) / scale[places], 0.0)
    safe = torch.where(failed[:, None, None] == 0, factors, torch.eye(places.shape[1]).to(gram))
    solved = torch.cholesky_solve(wanted[:, :, None], safe)[:, :, 0] / scale[places]
    solved = torch.where(there, solved, 0.0)
    return solved, (failed == 0) & torch.isfinite(solved).all(dim=1)


def nearest_orthonormal(matrix: Tensor) -> Tensor:
    """Return the matrix with orthonormal rows that is nearest to one of (k, q), k <= q (Procrustes)."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    nearest: Tensor = left @ right
    return nearest
