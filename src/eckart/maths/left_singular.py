r"""Left singular vectors of a matrix from eigenvectors of its smaller Gram matrix, in a fraction of the time of an SVD.

The squares of singular values lose half of the digits: an eigenvalue of ``M M^T`` is known to about ``eps s_1^2``, so
that of a component with ``s_i^2`` below :data:`RESOLVED` of the largest neither its size nor its direction is taken
from there. Where such components are wanted they are found again, in what the others leave of M: that is small, and is
multiplied before it is squared, so that its own largest component is as exact as if there were no others. Each step
reaches as much further down again, to where an SVD has its rounding, too.

Everything here is a pure function of float64 tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Share of the largest eigenvalue of a Gram matrix above which others are known to one in 10^5 or better. A mistake of
# that size mixes components of nearly equal size, which costs its square.
RESOLVED = 1e-8
# Share of the largest singular value below which one counts as zero.
ZERO = 1e-12


def left_singular_vectors(matrix: Tensor, wanted: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the left singular vectors of a matrix, and its singular values; nothing of those that are zero.

    Args:
        matrix: M, (m, n) float64.
        wanted: how many are wanted at least; all by default.

    Returns:
        (m, k), orthonormal, and (q,), falling; with ``wanted <= k <= q <= min(m, n)`` unless there are fewer.
    """
    wanted = min(matrix.shape) if wanted is None else wanted
    wide = matrix.shape[0] <= matrix.shape[1]
    found: list[Tensor] = []
    sizes: list[Tensor] = []
    basis: Tensor | None = None  # of rows or columns of M, the fewer, that what is not found yet lies in
    rest = matrix  # in that basis
    while min(rest.shape) and _is_left(rest, sizes):
        scale = rest.abs().max()
        scaled = rest / scale
        vectors, values = eigenvectors(scaled @ scaled.T if wide else scaled.T @ scaled)
        count = resolved(values)
        lengths = values.sqrt() * scale
        turned = vectors if basis is None else basis @ vectors
        found.append(turned[:, :count] if wide else (rest @ vectors[:, :count]) / lengths[:count])
        if sum(part.shape[1] for part in found) >= wanted:
            sizes.append(lengths)
            break
        sizes.append(lengths[:count])
        basis = turned[:, count:]
        rest = basis.T @ matrix if wide else _beside(matrix @ basis, found)
    return _in_order(matrix, found, sizes)


def eigenvectors(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvectors of a symmetric matrix, (p, p), and its eigenvalues, (p,), falling, none below zero."""
    values, vectors = torch.linalg.eigh(gram)
    return vectors.flip(1), values.flip(0).clamp_min(0)


def resolved(eigenvalues: Tensor) -> int:
    """Return how many of the falling eigenvalues of a Gram matrix are known from it."""
    return int((eigenvalues > RESOLVED * eigenvalues[:1]).sum())


def _is_left(rest: Tensor, sizes: list[Tensor]) -> bool:
    """Return whether anything is left that is not rounding."""
    return bool(rest.norm() > ZERO * sizes[0][0]) if sizes else bool(rest.any())


def _beside(rest: Tensor, found: list[Tensor]) -> Tensor:
    """Return columns without what they have of those that were found."""
    for left in found:
        rest = rest - left @ (left.T @ rest)
    return rest


def _in_order(matrix: Tensor, found: list[Tensor], sizes: list[Tensor]) -> tuple[Tensor, Tensor]:
    if not found:
        return matrix.new_zeros(len(matrix), 0), matrix.new_zeros(0)
    left, values = torch.cat(found, dim=1), torch.cat(sizes)
    # Those of one step are in order, and those of two may not be by a rounding.
    known, order = values[: left.shape[1]].sort(descending=True)
    order = order[known > ZERO * known[0]]
    return left[:, order], torch.cat([known[: len(order)], values[left.shape[1] :]])
