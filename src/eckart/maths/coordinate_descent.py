r"""Codes and scales made better in turn, once they are there: neither step ever loses more.

For fixed scales the best value of one number of a row, all others given, is what coordinate descent on
``tr(E S E^T)`` says (QuantEase, arXiv 2309.01885); for fixed codes the best scales are a least-squares problem.

Everything here is a pure function of tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eckart.maths.quantization import QuantScheme, as_stored, codes_of, divisors

RIDGE = 1e-6  # of the mean diagonal, that holds the scale of a group without a code where it was
COLUMNS = 128  # whose updates of the columns behind them are made at once


def descend(
    weight: Tensor, codes: Tensor, scales: Tensor, scheme: QuantScheme, second_moment: Tensor, sweeps: int
) -> tuple[Tensor, Tensor]:
    """Return codes, (rows, columns) int8, and scales, (rows, groups), that lose no more than those given.

    Args:
        weight: (rows, columns) float64.
        codes: to begin with, (rows, columns) int8.
        scales: (rows, groups), as they are stored.
        scheme: the groups and codes.
        second_moment: S of the inputs, (columns, columns) float64, regular.
        sweeps: over all codes, each followed by new scales.
    """
    scales = refit_scales(weight, codes, scales, scheme, second_moment)
    for _ in range(sweeps):
        codes = sweep(weight, codes, scales, scheme, second_moment)
        scales = refit_scales(weight, codes, scales, scheme, second_moment)
    return codes, scales


def sweep(weight: Tensor, codes: Tensor, scales: Tensor, scheme: QuantScheme, second_moment: Tensor) -> Tensor:
    """Return codes of which each was set, one column after another, to the best for all others as they are.

    With ``E = W - Q`` that is the code nearest to ``Q_ij + (E S)_ij / S_jj``. Arguments as for :func:`descend`.
    """
    # Transposed, so that what is at work lies side by side in memory: this loop is bound by its many small steps.
    scale = scheme.per_column(scales.to(weight), weight.shape[1]).T.contiguous()
    divided_by, numbers = divisors(scale), codes.T.to(weight) * scale
    left = second_moment @ (weight.T - numbers)
    found, diagonal = codes.T.contiguous(), second_moment.diagonal().tolist()
    for start in range(0, len(numbers), COLUMNS):
        end = min(start + COLUMNS, len(numbers))
        block, changes = left[start:end], torch.empty_like(numbers[start:end])
        for place, column in enumerate(range(start, end)):
            nearest = codes_of(numbers[column] + block[place] / diagonal[column], divided_by[column], scheme)
            found[column] = nearest.to(torch.int8)
            torch.mul(nearest, scale[column], out=changes[place]).sub_(numbers[column])
            block[place + 1 :].addr_(second_moment[column, column + 1 : end], changes[place], alpha=-1)
        left[end:].addmm_(second_moment[start:end, end:].T, changes, alpha=-1)
    return found.T.contiguous()


def refit_scales(weight: Tensor, codes: Tensor, scales: Tensor, scheme: QuantScheme, second_moment: Tensor) -> Tensor:
    """Return the scales, (rows, groups), as they are stored, by which codes lose least.

    For the codes of a row, C (columns, groups), they solve ``(C^T S C) s = C^T S w``. A row whose scales lose more once
    they are stored keeps the ones it has.

    Args:
        weight: (rows, columns) float64.
        codes: (rows, columns) int8.
        scales: (rows, groups), as stored.
        scheme: the groups and codes.
        second_moment: S of the inputs, (columns, columns) float64, regular.
    """
    rows, columns = weight.shape
    size, count = scheme.group_size(columns), scheme.groups(columns)
    numbers, present = codes.to(weight), scales.to(weight)

    def summed(values: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(values, (0, count * size - columns))
        return padded.reshape(rows, count, size).sum(dim=-1)

    error = weight - numbers * scheme.per_column(present, columns)
    wanted = summed(numbers * (error @ second_moment))
    matrix = weight.new_empty(rows, count, count)
    for group in range(count):
        of_group = slice(group * size, min((group + 1) * size, columns))
        matrix[:, :, group] = summed(numbers * (numbers[:, of_group] @ second_moment[of_group]))
    ridge = RIDGE * matrix.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(torch.finfo(weight.dtype).tiny)
    matrix.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
    found = as_stored(present + torch.linalg.solve(matrix, wanted[..., None])[..., 0], scales.dtype, scheme)

    def loss(tried: Tensor) -> Tensor:
        missing = weight - numbers * scheme.per_column(tried.to(weight), columns)
        return ((missing @ second_moment) * missing).sum(dim=1)

    return torch.where((loss(found) < loss(scales))[:, None], found, scales)
