r"""Columns of a weight that stay whole while the others are of low rank.

With columns K whole and the others O of rank r, ``W' z = U V z_O + W'_K z_K``. As published (CPSVD, arXiv
2510.19385) ``W'_K = W_K``, and U V is the best of its rank in ``S_OO``. If the columns may move too, the best that they
can do for a given U V is (our closed form)

    W'_K = W_K + (W_O - U V) S_OK S_KK^+,

and what is left is weighed by the Schur complement ``S_OO - S_OK S_KK^+ S_KO``, in which U V is then the best of its
rank. That is the least loss of all weights of this form, so never more than that of the published one.

Everything here is a pure function of float64 tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from eckart.maths.whitening import FLOAT32_FLOOR, whiten

SHRINK = (3 - math.sqrt(5)) / 2  # .382, the share of an interval at which a golden section looks
EARLY = (SHRINK, SHRINK * (1 - 2 * SHRINK))  # .382 and .090: where a search looks before it gives up


def rank_columns(missing: Tensor, energies: Tensor) -> Tensor:
    """Return all columns, (n,) int64, those first whose loss costs most: by ``||missing_i||^2 S_ii``.

    Args:
        missing: what the weight of low rank lacks, (m, n), in the metric of the outputs.
        energies: the diagonal of S, (n,).
    """
    return (missing.square().sum(dim=0) * energies).argsort(descending=True, stable=True)


def others_of(columns: Tensor, count: int) -> Tensor:
    """Return the numbers below ``count``, rising, that are not among ``columns``."""
    left = torch.ones(count, dtype=torch.bool, device=columns.device)
    left[columns] = False
    return left.nonzero()[:, 0]


def root_of_others(root: Tensor, columns: Tensor, *, moved: bool) -> Tensor:
    """Return a root, (n - c, k), of what weighs errors of the other columns: ``S_OO``, or its Schur complement.

    Args:
        root: R of ``S = R R^T``, (n, k).
        columns: that are whole, (c,) int64.
        moved: whether they make up for what the others lose.
    """
    others = root[others_of(columns, len(root))]
    if not moved or not len(columns):
        return others
    kept = root[columns]
    # Orthonormal rows that span those of the kept columns. Features that no token has reached span nothing.
    basis = whiten(kept @ kept.T, floor=FLOAT32_FLOOR).inverse @ kept
    return others - (others @ basis.T) @ basis


def tail(seen: Tensor, rank: int) -> float:
    """Return what of a matrix no matrix of that rank explains: the sum of its other squared singular values."""
    gram = seen @ seen.T if seen.shape[0] <= seen.shape[1] else seen.T @ seen
    values = torch.linalg.eigvalsh(gram)
    return float(values[: max(len(values) - rank, 0)].clamp_min(0).sum())


def columns_in_exchange(out_features: int, in_features: int, rank: int, given_up: int) -> int:
    """Return how many columns cost what some ranks cost, as published: rounded, and without the bytes of an index.

    ``c = round(d (m + n) / (m - (r - d)))``, for which ``(r - d) (m + n - c) + c m`` is ``r (m + n)`` but for rounding.

    Args:
        out_features: m.
        in_features: n.
        rank: r, before.
        given_up: d, ranks.
    """
    return round(given_up * (out_features + in_features) / (out_features - (rank - given_up)))


def golden_section(loss: Callable[[int], float], highest: int, gain: float) -> int:
    """Return the number from 0 to ``highest`` of least loss among those that a golden section looks at.

    It gives up where neither of the two numbers in :data:`EARLY` is better than 0, and answers 0 where the best number
    is not better than 0 by a share ``gain``.

    Args:
        loss: of a number; asked for each once.
        highest: number.
        gain: as above.
    """
    known = {0: loss(0)}

    def at(place: float) -> float:
        number = min(max(round(place), 0), highest)
        if number not in known:
            known[number] = loss(number)
        return known[number]

    if highest < 1 or all(at(share * highest) >= known[0] for share in EARLY):
        return 0
    low, high = 0.0, float(highest)
    left, right = low + SHRINK * (high - low), high - SHRINK * (high - low)
    while high - low > 1:
        if at(left) <= at(right):
            high, right = right, left
            left = low + SHRINK * (high - low)
        else:
            low, left = left, right
            right = high - SHRINK * (high - low)
    at(low), at(high)
    best = min(known, key=lambda number: (known[number], number))
    return best if known[best] < (1 - gain) * known[0] else 0
