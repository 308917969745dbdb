r"""Leading left singular vectors by a randomized range finder (Halko, Martinsson, Tropp 2011, arXiv 0909.4061).

The left singular vectors of ``M = W_ls R`` are the eigenvectors of ``A = W_ls S W_ls^T``, for which no root R is
needed. A few more random vectors than are wanted are multiplied by A several times, with a QR factorisation between,
and what is wanted is taken out of the space that they then span: an eigendecomposition of the size of that space, in
the place of one of the size of A. Between, A is shifted by half of the smallest eigenvalue that is seen, which makes
what lies below fall faster (dynamic shifts: arXiv 2404.09276); so few vectors serve spectra that hardly fall.

Everything here is a pure function of float64 tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from eckart.maths.left_singular import eigenvectors, resolved


@dataclass(frozen=True)
class Sketch:
    """How leading singular vectors are looked for.

    Attributes:
        columns: random vectors; more than singular vectors that are wanted.
        iterations: products with A beyond the first, each behind a QR factorisation.
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
        singular_values: (r,), falling; squared, the part of ``energy`` that each vector explains.
        energy: ``||M||^2``, of all singular values, a 0-d tensor.
    """

    vectors: Tensor
    singular_values: Tensor
    energy: Tensor


def leading_left(seen: Tensor, second_moment: Tensor, rank: int, sketch: Sketch) -> Leading | None:
    """Return the leading left singular vectors of ``seen R``, with ``S = R R^T``.

    Args:
        seen: W_ls, in the metric, (m, n).
        second_moment: ``S``, (n, n).
        rank: how many vectors are wanted.
        sketch: how they are looked for.

    Returns:
        None if some of those wanted are too small beside the largest to be known from A (see
        :mod:`eckart.maths.left_singular`).
    """
    half = seen @ second_moment
    multiply = _products_with(half, seen, sketch)
    generator = torch.Generator().manual_seed(sketch.seed)  # on the host, so that all devices see the same numbers
    random = torch.randn(len(seen), sketch.columns, dtype=seen.dtype, generator=generator).to(seen.device)
    basis = torch.linalg.qr(multiply(random))[0]
    shift = 0.0
    for _ in range(sketch.iterations):
        basis, triangle = torch.linalg.qr(multiply(basis) - shift * basis)
        # At most half of an eigenvalue that is wanted, so that none of those below comes to lie above it.
        shift = max(shift, (float(triangle.diagonal().abs().min()) + shift) / 2)
    turns, values = eigenvectors(basis.T @ multiply(basis))
    if resolved(values) < rank:
        return None
    return Leading(basis @ turns[:, :rank], values[:rank].sqrt(), (half * seen).sum())


def _products_with(half: Tensor, seen: Tensor, sketch: Sketch) -> Callable[[Tensor], Tensor]:
    """Return what multiplies by ``half seen^T``, which is formed where that takes fewer operations in all."""
    rows, columns = seen.shape
    products = (sketch.iterations + 2) * sketch.columns
    if rows * (columns + products) < 2 * columns * products:
        formed = half @ seen.T
        return lambda vectors: formed @ vectors
    return lambda vectors: half @ (seen.T @ vectors)
