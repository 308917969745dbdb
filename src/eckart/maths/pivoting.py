r"""Which rows of a low-rank matrix the others are written by, with small coefficients.

A matrix ``W' = second @ first`` of rank r is known by r of its own rows and by how the others combine them:
``W'[others] = C W'[pivots]`` with ``C = second[others] second[pivots]^-1`` (PIFA, arXiv 2501.19090). C does not depend
on which factors of W' are taken, only on the pivots. They are chosen so that no coefficient is larger than a bound:
from the pivots of a triangular factorisation on, the row of the largest coefficient and the pivot that it belongs to
change places. Each exchange multiplies the volume of the pivots by that coefficient, so that it ends (strong
rank-revealing factorisation, Gu and Eisenstat 1996; maximum volume, Goreinov and others 2010).

Where the sizes of the outputs are known, the bound is on ``C_ij sqrt(size_j / size_i)``: what the outputs of a pivot
lose by rounding is relative to their size, and rows of small outputs then serve better as pivots than those of large
ones. Half-way between no scaling and one by the sizes themselves is what lost least when measured.

Everything here is a pure function of float64 tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The smaller the coefficients the less rounding counts, and it takes hardly more exchanges than 2 or 4.
LARGEST_COEFFICIENT = 1.1
EXCHANGES_BETWEEN_SOLVES = 200  # rounding adds up over exchanges
SMALLEST_SIZE = 1e-3  # of the largest; outputs that are smaller than that count as of that size


def choose_pivots(
    second: Tensor, sizes: Tensor | None = None, largest: float = LARGEST_COEFFICIENT
) -> tuple[Tensor, Tensor]:
    """Return the pivots of a matrix of low rank, and the coefficients of its other rows.

    Args:
        second: (m, r) float64, r < m; its columns span those of the matrix. May be of lower rank than r, or zero.
        sizes: of the outputs, (m,), such as their root mean squares; None if they are not known.
        largest: bound on the size of the coefficients, above 1; with ``sizes`` of the scaled ones.

    Returns:
        The pivots, (r,) int64 rising, and ``C``, (m - r, r), by rising row and pivot.

    Raises:
        ValueError: r is not below m.
    """
    rows, rank = second.shape
    if not 1 <= rank < rows:
        raise ValueError(f"a matrix of {rows} rows has 1 to {rows - 1} pivots, found {rank}")
    # An orthonormal basis has full rank whatever ``second`` has, and C is the same for all bases.
    scale = _row_scale(second, sizes)
    basis = torch.linalg.qr(scale[:, None] * second)[0]
    permutation, _, _ = torch.lu_unpack(*torch.linalg.lu_factor(basis))
    pivots = permutation.argmax(dim=0)[:rank]
    while True:
        coefficients = torch.linalg.solve(basis[pivots], basis, left=False)
        if not _exchange(coefficients, pivots, largest):
            break
    pivots = pivots.sort().values
    others = other_rows(pivots, rows)
    scaled = torch.linalg.solve(basis[pivots], basis[others], left=False)
    return pivots, scaled * (scale[pivots] / scale[others, None])


def other_rows(pivots: Tensor, rows: int) -> Tensor:
    """Return the numbers below ``rows`` that are no pivots, rising."""
    others = torch.ones(rows, dtype=torch.bool, device=pivots.device)
    others[pivots] = False
    return others.nonzero()[:, 0]


def _row_scale(second: Tensor, sizes: Tensor | None) -> Tensor:
    if sizes is None or not sizes.any():
        return torch.ones_like(second[:, 0])
    return sizes.to(second).clamp_min(SMALLEST_SIZE * float(sizes.max())).rsqrt()


def _exchange(coefficients: Tensor, pivots: Tensor, largest: float) -> bool:
    """Exchange rows and pivots while a coefficient is too large; both are changed in place.

    Args:
        coefficients: of all rows, (m, r); those of pivots are unit vectors.
        pivots: (r,).
        largest: bound.

    Returns:
        Whether anything was exchanged.
    """
    rank = len(pivots)
    for count in range(EXCHANGES_BETWEEN_SOLVES):
        place = int(coefficients.abs().argmax())
        row, pivot = divmod(place, rank)
        # A little more than the bound, so that rounding cannot exchange the same two for ever.
        if abs(float(coefficients[row, pivot])) <= largest * (1 + 1e-9):
            return count > 0
        pivots[pivot] = row
        change = coefficients[row].clone()
        change[pivot] -= 1
        coefficients -= torch.outer(coefficients[:, pivot] / coefficients[row, pivot], change)
    return True
