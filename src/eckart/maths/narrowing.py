r"""Narrower inner widths: which hidden units stay, which rotary planes, and which directions of values.

What lies between two matrices of a block is h, handed to the second one, ``y = W h``. With the second moment
``S = Z Z^T`` of what that is handed, and ``P = T Z^T`` for the outputs T that are aimed at, keeping the entries J of h
loses least with

    W' = P[:, J] S[J, J]^+,    loss = ||T||^2 - tr(P[:, J] S[J, J]^+ P[:, J]^T),

the least-squares answer (Nystroem; MoDeGPT, arXiv 2408.09632, algorithm 1). Values are linear in what attention makes
of them, so that any directions of them may stay and not only entries.

Everything here is a pure function of float64 tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eckart.maths.lowrank import least_squares
from eckart.maths.whitening import FLOAT64_FLOOR, whiten

ZERO = 1e-12  # of what a unit was, that is left of it where it follows from others


def ridge_leverage(second_moment: Tensor, ridge: float) -> Tensor:
    """Return the ridge leverage of each entry, (f,): the diagonal of ``S (S + ridge I)^-1``, between 0 and 1.

    MoDeGPT, arXiv 2408.09632, section 3.2. Found from eigenvalues, so that nothing is inverted.

    Args:
        second_moment: S, (f, f), symmetric and positive semi-definite.
        ridge: in the units of S; above 0.
    """
    values, vectors = torch.linalg.eigh(second_moment)
    values = values.clamp_min(0)
    found: Tensor = (vectors.square() * (values / (values + ridge))).sum(dim=1)
    return found


def largest(scores: Tensor, count: int) -> Tensor:
    """Return the places of the largest scores, (..., count) int64 and rising, of (..., f); of equal ones the first."""
    return scores.argsort(dim=-1, descending=True, stable=True)[..., :count].sort(dim=-1).values


def greedy_units(second_moment: Tensor, cross_moment: Tensor, count: int) -> Tensor:
    """Return the entries that, one after another, lower the least-squares loss most, (count,) int64 and rising.

    With the residuals R of S and Y of P, given what is chosen, entry j lowers the loss by ``||Y[:, j]||^2 / R[j, j]``,
    exactly. Once nothing is left of the others, those of the largest second moment follow.

    Args:
        second_moment: S, (f, f).
        cross_moment: P, (m, f).
        count: of the entries that stay, at most f.
    """
    left, cross = second_moment.clone(), cross_moment.clone()
    sizes = second_moment.diagonal().clone()
    least = ZERO * sizes.clamp_min(0)
    chosen = torch.zeros(len(sizes), dtype=torch.bool, device=sizes.device)
    for _ in range(count):
        diagonal = left.diagonal()
        open_ = ~chosen & (diagonal > least) & (diagonal > ZERO * sizes.max())
        if not open_.any():
            break
        gains = torch.where(open_, cross.square().sum(dim=0) / diagonal.clamp_min(torch.finfo(left.dtype).tiny), -1.0)
        unit = int(gains.argmax())
        row, size = left[unit].clone(), float(left[unit, unit])
        cross.addr_(cross[:, unit].clone(), row, alpha=-1 / size)
        left.addr_(row, row, alpha=-1 / size)
        chosen[unit] = True
    rest = count - int(chosen.sum())
    if rest:
        chosen[largest(sizes.masked_fill(chosen, -1.0), rest)] = True
    return chosen.nonzero().flatten()


def refit_columns(
    second_moment: Tensor, cross_moment: Tensor, weight: Tensor, kept: Tensor, floor: float = FLOAT64_FLOOR
) -> Tensor:
    """Return ``W' = P[:, J] S[J, J]^+``, (m, r), which keeps the weight itself where no token has been.

    Args:
        second_moment: S, (f, f).
        cross_moment: P, (m, f).
        weight: W, (m, f).
        kept: J, (r,) int64.
        floor: as for :func:`eckart.maths.whitening.whiten`.
    """
    whitening = whiten(second_moment[kept][:, kept], floor=floor)
    return least_squares(whitening, cross_moment[:, kept], weight[:, kept])


def plane_scores(queries: Tensor, keys: Tensor, planes: Tensor, *, averaged: bool) -> Tensor:
    """Return what each rotary plane carries of the logits of the heads that share a key, (key heads, planes).

    As published (MoDeGPT, arXiv 2408.09632, section 3.3; grouped queries as in a re-implementation), the root of the
    sum over heads and over both directions i of a plane of ``E q_i^2 E k_i^2``. Averaged over all relative positions
    a term has ``1/2 (E q_i^2 + E q_i'^2) (E k_i^2 + E k_i'^2)`` in place of both products.

    Args:
        queries: mean squares of queries, summed over the heads that share a key, (key heads, head size).
        keys: mean squares of keys, (key heads, head size).
        planes: the directions of each, (planes, 1 or 2) int64.
        averaged: over relative positions.
    """
    of_queries, of_keys = queries[:, planes], keys[:, planes]
    if averaged:
        return (0.5 * of_queries.sum(dim=-1) * of_keys.sum(dim=-1)).sqrt()
    return (of_queries * of_keys).sum(dim=-1).sqrt()


def root_of(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the symmetric roots of a positive semi-definite matrix (d, d) and of its pseudo-inverse."""
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > ZERO * values[-1].clamp_min(torch.finfo(values.dtype).tiny)
    sizes = torch.where(kept, values.clamp_min(0).sqrt(), 0.0)
    inverse = torch.where(kept, 1 / torch.where(kept, sizes, 1.0), 0.0)
    return (vectors * sizes) @ vectors.T, (vectors * inverse) @ vectors.T


def value_directions(moment: Tensor, outputs: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the best r directions of a head's values for the projection of the heads that share them.

    Minimises the sum over heads of ``||O_h (I - F E^T) R||^2``, ``R R^T`` being the moment: with ``N^2`` the sum of
    ``O_h^T O_h`` and P the leading eigenvectors of ``N R R^T N`` it is ``E = N P``, ``F = N^+ P`` (MoDeGPT, arXiv
    2408.09632, algorithm 3, where each head has values of its own).

    Args:
        moment: second moment of the values, (d, d).
        outputs: the columns of the output projection for each head, (heads, n, d).
        rank: r, at most d.

    Returns:
        E and F, (d, r) each.
    """
    root, inverse = root_of(torch.einsum("hni,hnj->ij", outputs, outputs))
    _, vectors = torch.linalg.eigh(root @ moment @ root)
    leading = vectors[:, -rank:]
    return root @ leading, inverse @ leading


def mixed_directions(moment: Tensor, outputs: Tensor, rank: int) -> Tensor:
    """Return orthonormal directions of a head's values, (d, r), of what attention makes of them.

    ``C^+1/2`` times the leading eigenvectors of ``C^1/2 (sum of O_h^T O_h) C^1/2``: the closed form for heads whose
    outputs do not correlate. Only their span counts, since the projection is fitted behind them.

    Args:
        moment: C, mean over heads of the second moment of what attention gives, (d, d).
        outputs: as for :func:`value_directions`.
        rank: r, at most d.
    """
    root, inverse = root_of(moment)
    _, vectors = torch.linalg.eigh(root @ torch.einsum("hni,hnj->ij", outputs, outputs) @ root)
    return orthonormal(inverse @ vectors[:, -rank:])


def orthonormal(columns: Tensor) -> Tensor:
    """Return orthonormal columns, (..., d, r), that span what some span."""
    found: Tensor = torch.linalg.qr(columns).Q
    return found


def heads_of(tensor: Tensor, heads: int, dim: int = 0) -> Tensor:
    """Return a tensor with a dimension of all heads as two: (heads, size of each)."""
    return tensor.reshape(*tensor.shape[:dim], heads, -1, *tensor.shape[dim + 1 :])


def spread(directions: Tensor, heads: list[int]) -> Tensor:
    """Return the block diagonal matrix of the directions of each query head, (heads d, heads r).

    Args:
        directions: of each key head, (key heads, d, r).
        heads: the key head of each query head.
    """
    found: Tensor = torch.block_diag(*(directions[head] for head in heads))  # type: ignore[no-untyped-call]
    return found


def refine_directions(
    second_moment: Tensor, cross_moment: Tensor, projection: Tensor, directions: Tensor, heads: list[int], steps: int
) -> Tensor:
    """Return directions (key heads, d, r) that lose less with a given projection, by conjugate gradients.

    The loss ``||T - sum_h D_h A_a(h)^T Z_h||^2`` is quadratic in the directions A for a fixed projection D. Ours; the
    sweeps over D and A are those of methods for caches.

    Args:
        second_moment: S, (heads d, heads d).
        cross_moment: P, (n, heads d).
        projection: D, (n, heads r).
        directions: A, where it starts, (key heads, d, r).
        heads: the key head of each query head.
        steps: of conjugate gradients.
    """
    d = heads_of(projection, len(heads), 1).movedim(1, 0)  # (heads, n, r)
    owner = torch.tensor(heads, device=directions.device)

    def gathered(products: Tensor) -> Tensor:  # (n, heads d) -> (key heads, d, r)
        parts = torch.einsum("nhi,hnr->hir", heads_of(products, len(heads), 1), d)
        return torch.zeros_like(directions).index_add_(0, owner, parts)

    def apply(some: Tensor) -> Tensor:
        weight = torch.einsum("hnr,hir->nhi", d, some[owner]).flatten(1)
        return gathered(weight @ second_moment)

    found = directions.clone()
    residual = gathered(cross_moment) - apply(found)
    step, size_now = residual.clone(), residual.square().sum()
    start = size_now.clone()
    for _ in range(steps):
        if size_now <= ZERO * start or start == 0:
            break
        turned = apply(step)
        curvature = (step * turned).sum()
        if curvature <= 0:
            break
        found += size_now / curvature * step
        residual -= size_now / curvature * turned
        size_next = residual.square().sum()
        step, size_now = residual + size_next / size_now * step, size_next
    return found
