r"""Penalties that are small where a matrix is near to one of low rank, and their derivatives.

For singular values ``s_1 >= s_2 >= ...`` of M = U diag(s) V^T:

- the tail at rank r, ``sum_{i > r} s_i^2``: what the best matrix of rank r leaves out. Its derivative is twice the
  rest, ``2 (M - U_r U_r^T M)``. With U_r held fixed while M moves, ``||M - U_r U_r^T M||^2`` is at least the tail, and
  both value and derivative are the same where U_r was found: it may be found again from time to time only.
- the stable rank, ``||M||_F^2 / s_1^2`` (Low-Rank Prehab, arXiv 2512.01980). Its derivative is
  ``2 M / s_1^2 - 2 ||M||_F^2 s_1^-3 u_1 v_1^T``. It falls also where s_1 grows and the tail stays.

Everything here is a pure function of tensors of any float dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eckart.maths.left_singular import left_singular_vectors


def leading_vectors(matrix: Tensor, rank: int) -> Tensor:
    """Return the leading singular vectors of M on its shorter side, (min(m, k), r) orthonormal; fewer if M has fewer.

    Args:
        matrix: M, (m, k) float64.
        rank: r.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    return left_singular_vectors(matrix if wide else matrix.T, rank)[0][:, :rank]


def tail(matrix: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``||M - Q Q^T M||_F^2``, a 0-d tensor, and its derivative by M with Q held fixed, (m, k).

    With Q the leading singular vectors of M it is the sum of the squares of all other singular values.

    Args:
        matrix: M, (m, k).
        vectors: Q, (min(m, k), r) orthonormal, on the shorter side: of rows ``M - M Q Q^T`` counts where m > k.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    rest = matrix - (vectors @ (vectors.T @ matrix) if wide else (matrix @ vectors) @ vectors.T)
    return rest.square().sum(), 2 * rest


def leading_right(matrix: Tensor, iterations: int, start: Tensor | None = None) -> Tensor:
    """Return the first right singular vector of M, (k,), by power iteration.

    Args:
        matrix: M, (m, k).
        iterations: products with ``M^T M``.
        start: (k,), such as the vector of a matrix nearby; by default the longest row of M.
    """
    vector: Tensor = matrix[matrix.square().sum(dim=1).argmax()] if start is None else start
    smallest = torch.finfo(matrix.dtype).tiny
    vector = vector / vector.norm().clamp_min(smallest)
    for _ in range(iterations):
        vector = matrix.T @ (matrix @ vector)
        vector = vector / vector.norm().clamp_min(smallest)
    return vector


def stable_rank(matrix: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``||M||_F^2 / s_1^2``, a 0-d tensor, and its derivative by M, (m, k); both are 0 for a matrix of zeros.

    Args:
        matrix: M, (m, k).
        right: its first right singular vector, (k,).
    """
    left = matrix @ right
    largest = left.norm()
    if not largest > 0:
        return torch.zeros_like(largest), torch.zeros_like(matrix)
    value = matrix.square().sum() / largest.square()
    return value, 2 * matrix / largest.square() - 2 * value / largest.square() * torch.outer(left, right)
