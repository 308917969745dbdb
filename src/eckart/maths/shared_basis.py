r"""A basis that several weights share, each with inputs of its own, such as the experts of a mixture.

For weights ``W_e`` (m, n), inputs ``X_e`` and a basis ``V`` (r, n) the loss ``sum_e || (W_e - U_e V) X_e ||^2`` falls
apart into one least squares for each ``U_e`` (m, r), with ``S_e = X_e X_e^T``:

    U_e = W_e S_e V^T (V S_e V^T)^-1

Everything here is a pure function of float64 tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eckart.maths.moments import Moments, relative_error

EMPTY = 1e-12  # of the longest row of a basis: what is shorter behind the rows before it adds nothing to them


def gained(basis: Tensor, weight: Tensor, root: Tensor) -> Tensor:
    """Return by how much each row of a basis lowers the loss of a weight, behind all rows before it, (p,).

    Args:
        basis: V, (p, n).
        weight: ``W_e``, (m, n).
        root: R, (n, k), with ``S_e = R R^T``.
    """
    directions, sizes = torch.linalg.qr((basis @ root).T)
    lengths = sizes.diagonal().abs()
    found = (weight @ root @ directions).square().sum(dim=0)
    found = torch.where(lengths > EMPTY * lengths.max(), found, 0.0)
    return torch.cat([found, found.new_zeros(len(basis) - len(found))])


def relative_error_of_runs(weight: Tensor, product: Tensor, moments: Moments, constant: Tensor | None = None) -> float:
    """Return ``||T - (W' Z + c)|| / ||T||`` of a linear whose outputs are computed in runs, each for its own tokens.

    Args:
        weight: ``W``, (m, n) float64; the rows of a run are beside one another.
        product: ``W'``, (m, n) float64, as stored.
        moments: with those of each run.
        constant: ``c``, (m,) float64; None for 0.
    """
    size = len(weight) // len(moments.runs)
    missed = energy = 0.0
    for number, run in enumerate(moments.runs):
        rows = slice(number * size, (number + 1) * size)
        seen = run.second_moment if run.original is None else run.original
        outputs = float(((weight[rows] @ seen) * weight[rows]).sum())
        added = None if constant is None else constant[rows]
        missed += relative_error(weight[rows], product[rows], run, outputs, added) ** 2 * outputs
        energy += outputs
    return float((missed / energy) ** 0.5) if energy > 0 else 0.0
