r"""Rounding with what it loses fed back to where it can be made up for.

With the second moment S of what a matrix is multiplied with and a metric G of its outputs, an error ``E = W - Q`` costs
``tr(G E S E^T)``. Columns are rounded one after another, and the columns to come are moved to make up for what the
present one lost (GPTQ, arXiv 2210.17323, algorithm 1; there S is the Hessian). With G, blocks of rows are rounded one
after another too, and the rows to come make up for those in front of them (YAQA, arXiv 2505.22988).

Everything here is a pure function of tensors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from eckart.maths.coordinate_descent import COLUMNS, descend
from eckart.maths.quantization import QuantScheme, codes_of, divisors, find_scales, from_codes

DAMPING = 0.01  # of the mean diagonal, added to the diagonal; as published
ROW_BLOCKS = 8  # that a matrix is cut into where its outputs have a metric


def quantize(
    weight: Tensor,
    scheme: QuantScheme,
    second_moment: Tensor,
    metric: Tensor | None = None,
    stored: torch.dtype | None = None,
    sweeps: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return codes, (rows, columns) int8, and scales, (rows, groups), so that the products change little.

    Args:
        weight: (rows, columns) float64.
        scheme: the groups and codes.
        second_moment: S of the inputs, (columns, columns) float64; may be singular.
        metric: G of the outputs, (rows, rows) float64; None for the identity.
        stored: dtype of the scales; None for that of the weight.
        sweeps: of :func:`eckart.maths.coordinate_descent.descend`.
    """
    spread, regular = spread_of(second_moment), damped(second_moment)
    size = len(weight) if metric is None else -(-len(weight) // ROW_BLOCKS)
    passed_on = None if metric is None else _unit_upper(metric)
    left, codes, scales = weight.clone(), [], []
    for start in range(0, len(weight), size):
        end = min(start + size, len(weight))
        rows = left[start:end]
        found = find_scales(rows, scheme, second_moment.diagonal(), stored)
        kept = round_with_feedback(rows, found, scheme, spread)
        if sweeps and spread is not None:
            kept, found = descend(rows, kept, found, scheme, regular, sweeps)
        codes.append(kept)
        scales.append(found)
        if passed_on is not None and end < len(weight):
            error = rows - from_codes(kept, found.to(rows), scheme)
            block = passed_on[start:end]
            answer = torch.linalg.solve_triangular(block[:, start:end], block[:, end:], upper=True)
            left[end:] -= answer.T @ error
    return torch.cat(codes), torch.cat(scales)


def round_with_feedback(weight: Tensor, scales: Tensor, scheme: QuantScheme, spread: Tensor | None) -> Tensor:
    """Return a code for each number, (rows, columns) int8, so that the products with the inputs change little.

    Args:
        weight: (rows, columns) float64.
        scales: (rows, groups), as they will be stored.
        scheme: the groups and codes.
        spread: of :func:`spread_of`; None to round to what is nearest.
    """
    scale = scheme.per_column(scales.to(weight), weight.shape[1])
    divided_by, codes = divisors(scale), torch.empty_like(weight, dtype=torch.int8)

    def nearest(values: Tensor, column: int) -> Tensor:
        found = codes_of(values, divided_by[:, column], scheme)
        codes[:, column] = found.to(torch.int8)
        return found * scale[:, column]

    feed_back(weight, spread, nearest)
    return codes


def cast_with_feedback(weight: Tensor, dtype: torch.dtype, second_moment: Tensor) -> Tensor:
    """Return a matrix, (rows, columns) float64, in a float dtype, so that the products with the inputs change little.

    Args:
        weight: (rows, columns) float64.
        dtype: of 16 bits.
        second_moment: S of the inputs, (columns, columns) float64; may be singular.
    """
    spread = spread_of(second_moment)
    return feed_back(weight, spread, lambda values, column: values.to(dtype).to(values)).to(dtype)


def spread_of(second_moment: Tensor) -> Tensor | None:
    """Return how an error in a column spreads over those to come, (columns, columns), row by row; None if S is zero.

    That is the upper Cholesky factor of the inverse of S, to whose diagonal a little is added.

    Args:
        second_moment: S of the inputs, (columns, columns) float64; may be singular.
    """
    if second_moment.diagonal().mean() <= 0:
        return None
    return _unit_upper(second_moment)


def _unit_upper(moment: Tensor) -> Tensor:
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(moment)))
    spread: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return spread


def damped(moment: Tensor) -> Tensor:
    """Return a moment, (n, n), with a share of its mean diagonal added to its diagonal."""
    eye = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    return moment + DAMPING * moment.diagonal().mean() * eye


def feed_back(weight: Tensor, spread: Tensor | None, nearest: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Return a matrix rounded column after column, each moved before by what those in front of it lost (GPTQ).

    Args:
        weight: (rows, columns) float64.
        spread: of :func:`spread_of`; None to move nothing.
        nearest: gives, for the numbers of a column and its place, what they are rounded to.
    """
    columns = weight.shape[1]
    if spread is None:
        return torch.stack([nearest(weight[:, column], column) for column in range(columns)], dim=1)
    # Transposed, so that what is at work lies side by side in memory: this loop is bound by its many small steps.
    left, rounded = weight.T.contiguous(), torch.empty_like(weight.T.contiguous())
    diagonal = spread.diagonal().tolist()
    for start in range(0, columns, COLUMNS):
        end = min(start + COLUMNS, columns)
        block, errors = left[start:end], torch.empty_like(left[start:end])
        for place, column in enumerate(range(start, end)):
            rounded[column] = nearest(block[place], column)
            torch.sub(block[place], rounded[column], out=errors[place]).div_(diagonal[column])
            block[place + 1 :].addr_(spread[column, column + 1 : end], errors[place], alpha=-1)
        left[end:].addmm_(spread[start:end, end:].T, errors, alpha=-1)
    return rounded.T.contiguous()
