r"""What rounding a weight will cost, told before it is rounded.

Rounding with feedback (:mod:`eckart.maths.feedback`) leaves errors of the numbers as they come to be rounded, of which
each is as good as independent of the others. With the pivots d of the inputs' second moment, ``d_j`` being the part of
input j that the inputs behind it do not tell, and the diagonal of the metric G of the outputs, the loss is

    1/2 sum_ij G_ii d_j e_ij^2

with ``e^2`` the mean squared error of the grid (the identity of LDLQ, arXiv 2307.13304, with the output metric of YAQA,
arXiv 2505.22988). Beside factors of rank r what they leave of the weight is rounded, and the moment is what ``first``
does not see (:func:`eckart.maths.lowrank.unseen_moment`).

Everything here is a pure function of float64 tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eckart.maths.feedback import damped
from eckart.maths.lowrank import Solution, unseen_moment
from eckart.maths.quantization import QuantScheme, find_scales, from_codes, round_to_scheme

SAMPLED_ROWS = 64  # on which the error of a grid is measured


def pivots(second_moment: Tensor) -> Tensor:
    """Return what of each input those behind it do not tell, (n,), of a moment (n, n) that may be singular."""
    if second_moment.diagonal().mean() <= 0:
        return torch.zeros_like(second_moment[0])
    regular = damped(second_moment).flip(0, 1)
    root, failed = torch.linalg.cholesky_ex(regular)
    if failed:  # what factors leave of a moment is so small that what is left of its rounding is as large
        lowest = torch.linalg.eigvalsh(regular)[0].abs()
        root = torch.linalg.cholesky(regular + 2 * lowest * torch.eye(len(regular)).to(regular))
    found: Tensor = root.diagonal().flip(0).square()
    return found


def predicted_losses(
    solution: Solution,
    second_moment: Tensor,
    output_weights: Tensor,
    schemes: Sequence[QuantScheme],
    ranks: Sequence[int],
) -> list[list[float]]:
    """Return the loss for each scheme at each rank of the factors beside it.

    Args:
        solution: of the equation for the weight (m, n).
        second_moment: S of the inputs, a token, (n, n).
        output_weights: diagonal of G, (m,).
        schemes: in which the weight may be rounded.
        ranks: 0 for no factors.
    """
    weight = solution.least_squares
    whole = pivots(second_moment)
    some = torch.linspace(0, len(weight) - 1, min(len(weight), SAMPLED_ROWS), device=weight.device).long()
    costs = second_moment.diagonal(), whole, output_weights[some]
    errors = [_relative_error(weight[some], scheme, *costs) for scheme in schemes]
    found: list[list[float]] = [[] for _ in schemes]
    for rank in ranks:
        left, unseen = weight, whole
        if rank:
            first = solution.dual[:, :rank].T @ weight
            left, unseen = weight - solution.basis[:, :rank] @ first, pivots(unseen_moment(first, second_moment))
        squares, known = left.square(), dict[int, float]()
        for losses, scheme, error in zip(found, schemes, errors, strict=True):
            size = scheme.group_size(weight.shape[1])
            if size not in known:
                known[size] = float(_weighed(squares, unseen, output_weights, size))
            losses.append(error * known[size] / 2)
    return found


def _relative_error(
    weight: Tensor, scheme: QuantScheme, energies: Tensor, known: Tensor, output_weights: Tensor
) -> float:
    """Return the squared error of a grid, relative to the mean square of the numbers that share a scale."""
    scales = find_scales(weight, scheme, energies)
    error = weight - from_codes(round_to_scheme(weight, scales, scheme), scales, scheme)
    size = scheme.group_size(weight.shape[1])
    whole = _weighed(weight.square(), known, output_weights, size)
    return float(_weighed(error.square(), known, output_weights, size) / whole) if whole > 0 else 0.0


def _weighed(squares: Tensor, known: Tensor, output_weights: Tensor, size: int) -> Tensor:
    """Return ``sum G_ii d_j e_ij^2`` with the mean of each group of a row in the place of its squares.

    Args:
        squares: (m, n).
        known: the pivots d, (n,).
        output_weights: diagonal of G, (m,).
        size: of a group.
    """

    def grouped(values: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(values, (0, -values.shape[-1] % size))
        return padded.reshape(*values.shape[:-1], -1, size).sum(dim=-1)

    return output_weights @ (grouped(squares) / grouped(torch.ones_like(known)) @ grouped(known))
