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
from typing import Protocol

import torch
from torch import Tensor

from eckart.maths.left_singular import eigenvectors, left_singular_vectors, resolved
from eckart.maths.randomized import Sketch, leading_left
from eckart.maths.whitening import FLOAT32_FLOOR, OutputRoot, Whitening, blockwise, whiten


@dataclass(frozen=True)
class Solution:
    """The equation solved for every rank at once, or up to one: ``W' = basis_r dual_r^T W_ls``.

    Attributes:
        basis: (m, q) float64, q <= p = min(m, n): output directions by falling importance; orthonormal in the metric.
        dual: (m, q) float64, ``dual^T basis`` is the identity; the same as ``basis`` without a metric.
        singular_values: (p,) float64; squared, the part of ``||T||^2`` (in the metric) that each component explains.
            Of a solution from a sketch the leading ones only, as many as the rank.
        least_squares: (m, n) float64, the minimiser without a constraint on the rank.
        target_mean: ``mean(T)``, (m,) float64, if there is a constant too; it is ``target_mean - W' mean(Z)``.
        sketched: ``||W_ls R||^2`` (in the metric), a 0-d tensor, of a solution from a sketch; None of an exact one.
    """

    basis: Tensor
    dual: Tensor
    singular_values: Tensor
    least_squares: Tensor
    target_mean: Tensor | None = None
    sketched: Tensor | None = None

    @property
    def energy(self) -> Tensor:
        """``||W_ls R||^2`` (in the metric), which the components of a solution of full rank explain (a 0-d tensor)."""
        return self.singular_values.square().sum() if self.sketched is None else self.sketched


class Solve(Protocol):
    """What solves the equation up to a rank, as :func:`solve` does."""

    def __call__(
        self, whitening: Whitening, cross_moment: Tensor | None, weight: Tensor, metric: OutputRoot | None, rank: int, /
    ) -> Solution:
        """Return the solution; arguments as for :func:`solve`."""
        ...


def solve(
    whitening: Whitening,
    cross_moment: Tensor | None,
    weight: Tensor,
    metric: OutputRoot | None = None,
    rank: int | None = None,
    sketch: Sketch | None = None,
) -> Solution:
    """Solve the equation of this module.

    Args:
        whitening: the root of ``S``.
        cross_moment: ``P = T Z^T``, (m, n) float64; None stands for ``W S`` (the target is ``W Z``).
        weight: ``W``, (m, n) float64.
        metric: the root of the output metric, of full rank m; None for the identity.
        rank: the components of which the solution will be asked at most; None for all. Those beyond it are only known
            by their sizes, and to the rounding of the largest.
        sketch: to find the components in, up to the rank; None to find all of them. Where a component is too small to
            be found so, all are.
    """
    target = least_squares(whitening, cross_moment, weight)
    seen = target if metric is None else blockwise(metric.root.mT, target)
    wanted, sketched = min(seen.shape) if rank is None else rank, None
    found = None if sketch is None else leading_left(whitening, seen, wanted, sketch)
    if found is None:
        left, singular_values = _components(whitening, seen, wanted)
    else:
        left, singular_values, sketched = found.vectors, found.singular_values, found.energy
    basis, dual = left, left
    if metric is not None:
        basis, dual = blockwise(metric.inverse.mT, left), blockwise(metric.root, left)
    return Solution(basis, dual, singular_values, target, sketched=sketched)


def least_squares(whitening: Whitening, cross_moment: Tensor | None, weight: Tensor) -> Tensor:
    """Return ``W_ls``, (m, n), the minimiser without a constraint on the rank; arguments as for :func:`solve`."""
    if cross_moment is None:
        return weight
    return weight + (cross_moment @ whitening.inverse.T - weight @ whitening.root) @ whitening.inverse


def _components(whitening: Whitening, seen: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    """Return left singular vectors of ``seen @ root``, at least those wanted, and its min(m, n) singular values.

    Args:
        whitening: S and its root.
        seen: W_ls, in the metric, (m, n).
        wanted: how many vectors at least.
    """
    size = min(seen.shape)
    if not whitening.is_factored and len(seen) == size:
        # Their squares are those of W S W^T, for which no root is needed; the last ones are below its rounding.
        left, values = eigenvectors((seen @ whitening.second_moment) @ seen.T)
        if resolved(values) >= wanted:
            return left, values.sqrt()
    left, singular_values = left_singular_vectors(seen @ whitening.root, wanted)
    explained = left.shape[1]
    if explained < wanted:
        # The tokens do not span enough directions to rank the rest: order it by the weight itself.
        rest = seen - left @ (left.T @ seen)
        left = torch.cat([left, torch.linalg.svd(rest, full_matrices=False)[0][:, : size - explained]], dim=1)
        left = torch.linalg.qr(left)[0]
        singular_values = singular_values[:explained]
    missing = size - len(singular_values)
    return left, torch.cat([singular_values, singular_values.new_zeros(missing)]) if missing else singular_values


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


def unseen_moment(first: Tensor, second_moment: Tensor) -> Tensor:
    """Return ``S - S A^T (A S A^T)^+ A S``, (n, n) float64: what errors cost that no ``second`` can make up for.

    For an error E of the weight, ``min over B of || (E - B A) R ||^2 = tr(E H E^T)`` with that matrix H, whatever the
    output metric is. Errors in the rows of A cost nothing.

    Args:
        first: A, (r, n), as it is stored.
        second_moment: ``S = R R^T``, (n, n).
    """
    inverse = whiten(first @ second_moment @ first.T, floor=FLOAT32_FLOOR).inverse
    seen = inverse @ first @ second_moment
    return second_moment - seen.T @ seen


def minimum_loss(solution: Solution, rank: int, target_energy: Tensor) -> Tensor:
    """Return ``||T - W' Z||^2 = ||T||^2 - sum_{i<=rank} s_i^2`` of the truncated solution (a 0-d tensor)."""
    return target_energy - solution.singular_values[:rank].square().sum()
