r"""The equation that every method solves.

For a weight ``W`` (m, n), inputs ``Z`` (n, tokens) and target outputs ``T`` (m, tokens), find

    minimise over rank(W') <= r   || T - W' Z ||_F^2

from the two moments ``S = Z Z^T`` (n, n) and ``P = T Z^T`` (m, n) alone. With ``S = R R^T`` and
``M = P R^-T = U diag(s) V^T`` the minimiser is ``U_r diag(s_r) V_r^T R^-1`` and the minimum
``||T||^2 - sum_{i<=r} s_i^2`` (AA-SVD, arXiv 2604.02119, theorem 3.2). It is computed here in the form

    W' = U_r U_r^T W_ls,    W_ls = W + (P - W S) S^+,    U = left singular vectors of W_ls R,

which is the same matrix where ``S`` is regular, needs no inverse for ``T = W Z`` (then ``W_ls = W``), and keeps
``W`` in the directions that no token has ever reached: the limit of the shrinkage towards ``W`` going to zero.

What moments can tell has a limit. Rounding changes S by e, relative to its features; so a direction of eigenvalue v is
weighted wrongly by e / v, which costs (e / v)^2 of what it explains, and two inputs whose S differ by less than e, with
other minimisers, have the same S. Below a floor directions are left as they were. For ``T = W Z`` that costs no more
than the floor. For other targets it can cost what the direction explains, so those sums are made in float64, where the
floor lies below what inputs in float32 can tell: a millionth of a feature. :attr:`Whitening.dropped` measures the rest.

With an output metric ``G = C C^T`` (m, m) the loss is ``|| C^T (T - W' Z) ||_F^2``; then U are the left singular
vectors of ``C^T W_ls R`` and ``W' = C^-T U_r U_r^T C^T W_ls`` (IO-SVD, arXiv 2605.15626).

With a constant c, an (m,) bias, the loss is ``|| T - (W' Z + c 1^T) ||_F^2``. Whatever W' is, the best c is
``mean(T) - W' mean(Z)``, and what is left of the loss is the same equation about the means: S and P less
``tokens * mean(Z) mean(Z)^T`` and ``tokens * mean(T) mean(Z)^T``.

Everything here is a pure function of float64 tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# Eigenvalues of the unit-diagonal second moment below a share of the largest count as zero: what lies below is rounding
# of the sums, which depends on the dtype in which products were summed.
FLOAT32_FLOOR = 1e-7
FLOAT64_FLOOR = 1e-12


@dataclass(frozen=True)
class Whitening:
    """A square root of a second moment, ``S = root @ root.T``, of rank k <= n.

    Attributes:
        root: (n, k) float64.
        inverse: (k, n) float64, the left inverse: ``inverse @ root`` is the identity of size k.
        dropped: (n, n - k) float64, the directions that cannot be told from rounding, scaled so that
            ``||(P - W S) dropped||^2`` is the loss that they would save if their eigenvalues were at the floor; None
            if there are none.
    """

    root: Tensor
    inverse: Tensor
    dropped: Tensor | None = None

    @cached_property
    def second_moment(self) -> Tensor:
        """S, (n, n) float64."""
        return self.root @ self.root.T

    @staticmethod
    def identity(size: int, device: torch.device | None = None) -> Whitening:
        """Return the root of the identity: no data, all input directions weigh the same."""
        eye = torch.eye(size, dtype=torch.float64, device=device)
        return Whitening(eye, eye)


@dataclass(frozen=True)
class BlockRoot:
    """A root of an output metric that is zero but for square blocks along its diagonal, all of one size.

    Attributes:
        root: (blocks, size, size) float64.
        inverse: of the blocks.
    """

    root: Tensor
    inverse: Tensor


OutputRoot = Whitening | BlockRoot
"""C of an output metric ``C C^T``, of full rank."""


def blockwise(blocks: Tensor, matrix: Tensor) -> Tensor:
    """Return the product of a matrix (m, m), or of one made of blocks (number, m / number, m / number), and (m, k)."""
    if blocks.ndim == 2:
        return blocks @ matrix
    return (blocks @ matrix.view(len(blocks), -1, matrix.shape[-1])).flatten(0, 1)


def whiten(second_moment: Tensor, removed: Tensor | None = None, floor: float = FLOAT64_FLOOR) -> Whitening:
    """Factor a positive semi-definite matrix, dropping what is numerically zero.

    The matrix is first scaled to a unit diagonal: features of language models differ in size by a factor of a
    thousand, and the rounding of a sum of products is relative to the features that made it. Where nothing is to be
    dropped the root is triangular, else it is made of the eigenvectors.

    Args:
        second_moment: (n, n) float64, symmetric; may be singular or zero.
        removed: (n,) float64, if ``removed removed^T`` was subtracted from the sums of products. What rounding left
            behind is as large as it was before, so what counts as zero is told by both.
        floor: share of the largest eigenvalue below which one counts as zero, :data:`FLOAT32_FLOOR` where the sums
            are of float32 products.
    """
    if removed is None and (regular := triangular_root(second_moment, floor)) is not None:
        return regular
    energies = second_moment.diagonal()
    if removed is not None:
        energies = energies + removed.square()
    scale = energies.clamp_min(0).sqrt()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    values, vectors = torch.linalg.eigh(second_moment / (scale[:, None] * scale[None, :]))
    largest = values[-1].clamp_min(torch.finfo(values.dtype).tiny)
    if removed is not None:
        # Where all products have one sign, their rounding may have one too, and does not average out.
        largest = torch.maximum(largest, 10 * (removed / scale).square().sum())
    kept = values > floor * largest
    deviations = values[kept].sqrt()
    basis = vectors[:, kept]
    return Whitening(
        root=scale[:, None] * basis * deviations,
        inverse=(basis / deviations).T / scale,
        dropped=None if kept.all() else vectors[:, ~kept] / scale[:, None] / (floor * largest).sqrt(),
    )


def triangular_root(matrix: Tensor, floor: float = 0.0) -> Whitening | None:
    """Return the lower triangular root of a positive definite matrix, in a third of the time of eigenvectors.

    Args:
        matrix: (n, n) float64, symmetric; is scaled to a unit diagonal as in :func:`whiten`.
        floor: share of the largest eigenvalue that all others must surely exceed.

    Returns:
        None if the matrix is not positive definite, or an eigenvalue may be below the floor.
    """
    scale = matrix.diagonal().clamp_min(torch.finfo(matrix.dtype).tiny).sqrt()
    unit = matrix / torch.outer(scale, scale)
    root, failed = torch.linalg.cholesky_ex(unit)
    if failed:
        return None
    inverse = torch.linalg.solve_triangular(
        root, torch.eye(len(root), dtype=root.dtype, device=root.device), upper=False
    )
    # ||root^-1||^2 is the trace of the inverse of ``unit``: at least 1 / the smallest eigenvalue of ``unit``.
    if not floor * unit.norm() * inverse.square().sum() < 1:
        return None
    return Whitening(scale[:, None] * root, inverse / scale)


@dataclass(frozen=True)
class Solution:
    """The equation solved for every rank at once: ``W' = basis_r dual_r^T W_ls``.

    Attributes:
        basis: (m, p) float64, p = min(m, n): output directions by falling importance; orthonormal in the metric.
        dual: (m, p) float64, ``dual^T basis`` is the identity; the same as ``basis`` without a metric.
        singular_values: (p,) float64; squared, the part of ``||T||^2`` (in the metric) that each component explains.
        least_squares: (m, n) float64, the minimiser without a constraint on the rank.
        target_mean: ``mean(T)``, (m,) float64, if there is a constant too; it is ``target_mean - W' mean(Z)``.
    """

    basis: Tensor
    dual: Tensor
    singular_values: Tensor
    least_squares: Tensor
    target_mean: Tensor | None = None


def solve(
    whitening: Whitening, cross_moment: Tensor | None, weight: Tensor, metric: OutputRoot | None = None
) -> Solution:
    """Solve the equation of this module.

    Args:
        whitening: the root of ``S``.
        cross_moment: ``P = T Z^T``, (m, n) float64; None stands for ``W S`` (the target is ``W Z``).
        weight: ``W``, (m, n) float64.
        metric: the root of the output metric, of full rank m; None for the identity.
    """
    target = least_squares(whitening, cross_moment, weight)
    seen = target if metric is None else blockwise(metric.root.mT, target)
    left, singular_values = _left_singular_vectors(seen @ whitening.root, seen)
    if metric is None:
        return Solution(left, left, singular_values, target)
    return Solution(blockwise(metric.inverse.mT, left), blockwise(metric.root, left), singular_values, target)


def least_squares(whitening: Whitening, cross_moment: Tensor | None, weight: Tensor) -> Tensor:
    """Return ``W_ls``, (m, n), the minimiser without a constraint on the rank; arguments as for :func:`solve`."""
    if cross_moment is None:
        return weight
    return weight + (cross_moment @ whitening.inverse.T - weight @ whitening.root) @ whitening.inverse


def _left_singular_vectors(whitened: Tensor, unwhitened: Tensor) -> tuple[Tensor, Tensor]:
    """Return min(m, n) left singular vectors and values of ``whitened``, those of zero values from ``unwhitened``."""
    left, singular_values, _ = torch.linalg.svd(whitened, full_matrices=False)
    explained = int((singular_values > 1e-12 * singular_values.max()).sum()) if singular_values.numel() else 0
    size = min(unwhitened.shape)
    if explained < size:
        # The tokens do not span enough directions to rank the rest: order it by the weight itself.
        left = left[:, :explained]
        rest = unwhitened - left @ (left.T @ unwhitened)
        left = torch.cat([left, torch.linalg.svd(rest, full_matrices=False)[0][:, : size - explained]], dim=1)
        left = torch.linalg.qr(left)[0]
        padding = singular_values.new_zeros(size - explained)
        singular_values = torch.cat([singular_values[:explained], padding])
    return left, singular_values


def truncate(solution: Solution, rank: int, singular_values: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return ``second`` (m, rank) and ``first`` (rank, n) whose product is the best weight of that rank.

    The norm of each component is split evenly between the two, which keeps both within the range of 16-bit floats.

    Args:
        solution: of the equation.
        rank: r.
        singular_values: (p,), to split those instead: ``second = U sqrt(s)`` and ``first = sqrt(s) V^T R^-1``. A
            component without one, which no token determines, is split by its norm.
    """
    second = solution.basis[:, :rank]
    first = solution.dual[:, :rank].T @ solution.least_squares
    sizes = second.norm(dim=0), first.norm(dim=1)
    empty = (sizes[0] == 0) | (sizes[1] == 0)
    split = torch.where(empty, torch.ones_like(sizes[0]), sizes[1] / sizes[0]).sqrt()
    if singular_values is not None:
        roots = singular_values[:rank].to(split).sqrt()
        split = torch.where(roots > 0, roots, split)
    return second * split, first / split[:, None]


def refit(second: Tensor, first: Tensor, target: Tensor, second_moment: Tensor) -> Tensor:
    """Return the ``second`` that minimises ``|| (T - second first) R ||^2`` with ``S = R R^T``, (k, r) float64.

    In directions of ``first`` that no input reaches it stays as it is.

    Args:
        second: (k, r), to start from.
        first: (r, n), as it is stored.
        target: ``T``, (k, n).
        second_moment: ``S``, (n, n).
    """
    inverse = whiten(first @ second_moment @ first.T, floor=FLOAT32_FLOOR).inverse
    missing = (target - second @ first) @ second_moment @ first.T
    return second + (missing @ inverse.T) @ inverse


def minimum_loss(solution: Solution, rank: int, target_energy: Tensor) -> Tensor:
    """Return ``||T - W' Z||^2 = ||T||^2 - sum_{i<=rank} s_i^2`` of the truncated solution (a 0-d tensor)."""
    return target_energy - solution.singular_values[:rank].square().sum()
