r"""Rounding of a matrix to few bits, with what rounding loses fed back where it can be made up for.

A row of numbers is cut into groups; each has a scale, and each number is a whole multiple of it. With the second
moment S of what the matrix is multiplied with, the loss of rounding is ``|| (W - Q) R ||^2, S = R R^T``. Columns are
rounded one after another, and the columns to come are moved to make up for what the present one lost (GPTQ, arXiv
2210.17323, algorithm 1; there S is the Hessian).

Everything here is a pure function of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

DAMPING = 0.01  # of the mean diagonal, added to the diagonal; as published
COLUMNS = 128  # whose updates of the columns behind them are made at once
SHRINKS = 25  # scales that are tried for few bits, from the one that clips nothing down to SMALLEST of it
SMALLEST = 0.55
SMALLEST_GROUP = 32  # that a group is halved to


@dataclass(frozen=True)
class QuantScheme:
    """Whole numbers of so many bits, times a scale that neighbours of a row share.

    Attributes:
        bits: of a number.
        group: how many neighbours, at most; None for a whole row.
    """

    bits: int
    group: int | None = None

    @property
    def largest(self) -> int:
        """Largest code; the smallest is one further from zero."""
        return int(2 ** (self.bits - 1) - 1)

    def group_size(self, columns: int) -> int:
        """Return how many numbers of a row of ``columns`` share a scale.

        That is :attr:`group`, halved until it divides the row: products of few bits know no shorter last group. Where
        none of at least ``SMALLEST_GROUP`` divides it, there is one.
        """
        if self.group is None:
            return columns
        size = self.group
        while columns % size and size // 2 >= SMALLEST_GROUP:
            size //= 2
        return self.group if columns % size else size

    def groups(self, columns: int) -> int:
        """Return how many scales a row of ``columns`` numbers has."""
        return 1 if self.group is None else math.ceil(columns / self.group_size(columns))

    def per_column(self, scales: Tensor, columns: int) -> Tensor:
        """Return the scale of each number, (rows, columns), from those of the groups, (rows, groups)."""
        if self.group is None:
            return scales.expand(-1, columns)
        return scales.repeat_interleave(self.group_size(columns), dim=1)[:, :columns]


def find_scales(
    weight: Tensor, scheme: QuantScheme, importance: Tensor | None = None, stored: torch.dtype | None = None
) -> Tensor:
    """Return a scale for each group of each row, (rows, groups), as it is stored: neither zero nor infinite.

    For 8 bits nothing is clipped. For fewer, of several scales that clip more and more the one is taken that loses
    least.

    Args:
        weight: (rows, columns).
        scheme: the groups and codes.
        importance: what an error in each column costs, (columns,); None for the same.
        stored: dtype of the scales; None for that of the weight.
    """
    stored = weight.dtype if stored is None else stored
    rows, columns = weight.shape
    size = scheme.group_size(columns)
    padding = scheme.groups(columns) * size - columns
    groups = torch.nn.functional.pad(weight, (0, padding)).reshape(rows, -1, size)
    scales = groups.abs().amax(dim=-1) / scheme.largest
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    if scheme.bits >= 8:
        return _as_stored(scales, stored)
    costs = torch.ones_like(weight[0]) if importance is None else importance.to(weight)
    costs = torch.nn.functional.pad(costs, (0, padding)).reshape(-1, size)
    best, least = scales, torch.full_like(scales, math.inf)
    for shrink in torch.linspace(1.0, SMALLEST, SHRINKS).tolist():
        tried = scales * shrink
        rounded = _codes(groups, tried[..., None], scheme) * tried[..., None]
        loss = ((groups - rounded).square() * costs).sum(dim=-1)
        best = torch.where(loss < least, tried, best)
        least = torch.minimum(loss, least)
    return _as_stored(best, stored)


def _as_stored(scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return positive scales in ``dtype``; those that it is too narrow for become the smallest or largest it has."""
    limits = torch.finfo(dtype)
    return scales.clamp(limits.smallest_normal * limits.eps, limits.max).to(dtype)


def round_to_scheme(weight: Tensor, scales: Tensor, scheme: QuantScheme) -> Tensor:
    """Return the nearest code of each number, (rows, columns) int8.

    Args:
        weight: (rows, columns).
        scales: (rows, groups), as they will be stored.
        scheme: the groups and codes.
    """
    scale = scheme.per_column(scales.to(weight), weight.shape[1])
    return _codes(weight, _divisors(scale), scheme).to(torch.int8)


def round_with_feedback(weight: Tensor, scales: Tensor, scheme: QuantScheme, second_moment: Tensor) -> Tensor:
    """Return a code for each number, (rows, columns) int8, so that the products with the inputs change little.

    Args:
        weight: (rows, columns) float64.
        scales: (rows, groups), as they will be stored.
        scheme: the groups and codes.
        second_moment: S of the inputs, (columns, columns) float64; may be singular.
    """
    scale = scheme.per_column(scales.to(weight), weight.shape[1])
    divisors, codes = _divisors(scale), torch.empty_like(weight, dtype=torch.int8)

    def nearest(values: Tensor, column: int) -> Tensor:
        found = _codes(values, divisors[:, column], scheme)
        codes[:, column] = found.to(torch.int8)
        return found * scale[:, column]

    feed_back(weight, second_moment, nearest)
    return codes


def cast_with_feedback(weight: Tensor, dtype: torch.dtype, second_moment: Tensor) -> Tensor:
    """Return a matrix, (rows, columns) float64, in a float dtype, so that the products with the inputs change little.

    Args:
        weight: (rows, columns) float64.
        dtype: of 16 bits.
        second_moment: S of the inputs, (columns, columns) float64; may be singular.
    """
    return feed_back(weight, second_moment, lambda values, column: values.to(dtype).to(values)).to(dtype)


def feed_back(weight: Tensor, second_moment: Tensor, nearest: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Return a matrix rounded column after column, each moved before by what those in front of it lost (GPTQ).

    Args:
        weight: (rows, columns) float64.
        second_moment: S of the inputs, (columns, columns) float64; may be singular.
        nearest: gives, for the numbers of a column and its place, what they are rounded to.
    """
    columns = weight.shape[1]
    mean = second_moment.diagonal().mean()
    if mean <= 0:
        return torch.stack([nearest(weight[:, column], column) for column in range(columns)], dim=1)
    damped = second_moment + DAMPING * mean * torch.eye(columns, dtype=weight.dtype, device=weight.device)
    # The upper Cholesky factor of the inverse holds, row by row, how an error spreads over the columns to come.
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    spread = torch.linalg.cholesky(inverse, upper=True)
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


def from_codes(codes: Tensor, scales: Tensor, scheme: QuantScheme) -> Tensor:
    """Return the numbers that codes stand for, (rows, columns), in the dtype of the scales."""
    return codes.to(scales.dtype) * scheme.per_column(scales, codes.shape[1])


def pack(codes: Tensor) -> Tensor:
    """Return 4-bit codes, (rows, columns) int8 from -8 to 7, two in a byte: (rows, columns / 2 rounded up) uint8."""
    even = torch.nn.functional.pad(codes, (0, codes.shape[1] % 2)).to(torch.int16) + 8
    return (even[:, ::2] | (even[:, 1::2] << 4)).to(torch.uint8)


def unpack(packed: Tensor, columns: int) -> Tensor:
    """Return what :func:`pack` packed, (rows, columns) int8."""
    # A shift takes a hundredth of the time of a division, and not all runtimes that graphs are exported to have one.
    high = packed // 16 if torch.compiler.is_exporting() else packed >> 4
    both = torch.stack([packed & 15, high], dim=-1).flatten(1)[:, :columns]
    return both.to(torch.int8) - 8


def _codes(values: Tensor, scale: Tensor, scheme: QuantScheme) -> Tensor:
    return (values / scale).round().clamp(-scheme.largest - 1, scheme.largest)


def _divisors(scales: Tensor) -> Tensor:
    # Every code of a zero scale stands for zero. The quotient of two zeros is NaN, and would be fed back.
    return scales.masked_fill(scales == 0, math.inf)
