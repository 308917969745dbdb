r"""Leading left singular vectors by a randomized range finder (Halko, Martinsson, Tropp 2011, arXiv 0909.4061).

Those of ``M = W_ls R``, (m, n), are eigenvectors of ``W_ls S W_ls^T``, for which no root R is needed; or, where m > n,
``M v`` of the eigenvectors v of the smaller ``M^T M``. A few more random vectors than are wanted are multiplied by that
matrix several times, with a QR factorisation between. What is wanted is taken out of the space that they then span: an
eigendecomposition of the size of that space, in the place of one of the size of the matrix. Between, the matrix is
shifted by half of the smallest eigenvalue that is seen, which makes what lies below fall faster (dynamic shifts, arXiv
2404.09276); so few vectors serve spectra that hardly fall.

Everything here is a pure function of float64 tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from eckart.maths.left_singular import eigenvectors, resolved
from eckart.maths.whitening import Whitening


@dataclass(frozen=True)
class Sketch:
    """How leading singular vectors are looked for.

    Attributes:
        columns: random vectors; more than singular vectors that are wanted.
        iterations: products with the matrix beyond the first, each behind a QR factorisation.
        seed: of the random vectors.
    """

    columns: int
    iterations: int
    seed: int


@dataclass(frozen=True)
class Leading:
    """What a sketch found.

    Attributes:
        vectors: (m, r), orthonormal: left singular vectors.
        singular_values: (r,), falling or nearly so; squared, the part of ``energy`` that each vector explains.
        energy: ``||M||^2``, of all singular values, a 0-d tensor.
    """

    vectors: Tensor
    singular_values: Tensor
    energy: Tensor


def leading_left(whitening: Whitening, seen: Tensor, rank: int, sketch: Sketch) -> Leading | None:
    """Return the leading left singular vectors of ``seen R``.

    Args:
        whitening: ``S = R R^T``, and its root; that is asked for where m > n only.
        seen: W_ls, in the metric, (m, n).
        rank: how many vectors are wanted.
        sketch: how they are looked for.

    Returns:
        None if some of those wanted are too small beside the largest to be known from a Gram matrix (see
        :mod:`eckart.maths.left_singular`).
    """
    rows, columns = seen.shape
    if rows <= columns:
        half = seen @ whitening.second_moment
        found = _leading_eigenvectors(_products_with(half, seen, sketch), rows, half, rank, sketch)
        return None if found is None else Leading(found[0], found[1].sqrt(), (half * seen).sum())
    whole = seen @ whitening.root
    gram = whole.T @ whole
    found = _leading_eigenvectors(gram.__matmul__, len(gram), gram, rank, sketch)
    if found is None:
        return None
    left = (whole @ found[0]) / found[1].sqrt()  # orthonormal, since what is found is diagonal in the Gram matrix
    # Another product with M: more is explained than the eigenvalues say.
    return Leading(left, (left.T @ whole).norm(dim=1), gram.trace())


def _leading_eigenvectors(
    multiply: Callable[[Tensor], Tensor], size: int, like: Tensor, rank: int, sketch: Sketch
) -> tuple[Tensor, Tensor] | None:
    """Return the leading eigenvectors of a Gram matrix, (size, rank), and its eigenvalues, (rank,), falling.

    Args:
        multiply: multiplies a matrix by it from the left.
        size: of it.
        like: says of which dtype, and where, it is.
        rank: how many are wanted.
        sketch: how they are looked for.

    Returns:
        None if some of those wanted cannot be told from rounding.
    """
    generator = torch.Generator().manual_seed(sketch.seed)  # on the host, so that all devices see the same numbers
    random = torch.randn(size, sketch.columns, dtype=like.dtype, generator=generator).to(like.device)
    basis = torch.linalg.qr(multiply(random))[0]
    shift = 0.0
    for _ in range(sketch.iterations):
        basis, triangle = torch.linalg.qr(multiply(basis) - shift * basis)
        # At most half of an eigenvalue that is wanted, so that none of those below comes to lie above it.
        shift = max(shift, (float(triangle.diagonal().abs().min()) + shift) / 2)
    turns, values = eigenvectors(basis.T @ multiply(basis))
    return (basis @ turns[:, :rank], values[:rank]) if resolved(values) >= rank else None


def _products_with(half: Tensor, seen: Tensor, sketch: Sketch) -> Callable[[Tensor], Tensor]:
    """Return what multiplies by ``half seen^T``, which is formed where that takes fewer operations in all."""
    rows, columns = seen.shape
    products = (sketch.iterations + 2) * sketch.columns
    if rows * (columns + products) < 2 * columns * products:
        formed = half @ seen.T
        return formed.__matmul__
    return lambda vectors: half @ (seen.T @ vectors)
