"""Rounding of a matrix to few bits: groups of neighbours in a row share a scale, of which each number is a multiple.

Everything here is a pure function of tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Scales that are tried for few bits, as shares of the one whose smallest code is the group's number furthest from zero.
SHARES = (1.1, 0.5, 17)  # from the first to the second, so many
LARGEST_SCALE = 127  # that 8 bits hold, with its sign
SMALLEST_GROUP = 32  # that a group is halved to


@dataclass(frozen=True)
class QuantScheme:
    """Whole numbers of so many bits, times a scale that neighbours of a row share.

    Attributes:
        bits: of a number.
        group: how many neighbours, at most; None for a whole row.
        scale_bits: of a scale: 16 for those of a float, or 8 for whole numbers times a power of two that all scales
            of a row share.
    """

    bits: int
    group: int | None = None
    scale_bits: int = 16

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

    def scale_bytes(self, columns: int) -> int:
        """Return the stored bytes of the scales of a row of ``columns`` numbers."""
        count = self.groups(columns)
        return 2 * count if self.scale_bits == 16 else count + 2

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
    least. There is one more code below zero than above: a scale has the sign that gives that code to the number
    furthest from zero.

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
    if scheme.bits >= 8:
        return as_stored(groups.abs().amax(dim=-1) / scheme.largest, stored, scheme)
    furthest = groups.gather(-1, groups.abs().argmax(dim=-1, keepdim=True))[..., 0]
    scales = furthest / -(scheme.largest + 1)
    scales = torch.where(scales == 0, torch.ones_like(scales), scales)
    costs = torch.ones_like(weight[0]) if importance is None else importance.to(weight)
    costs = costs / costs.max().clamp_min(torch.finfo(costs.dtype).tiny)
    costs = torch.nn.functional.pad(costs, (0, padding)).reshape(-1, size).float()
    # Groups are compared with themselves alone, so that each can have the size 1, and float32 is enough.
    units = (groups / torch.where(furthest == 0, torch.ones_like(furthest), furthest)[..., None]).float()
    best, least = torch.ones_like(scales), torch.full(furthest.shape, math.inf, device=weight.device)
    for share in torch.linspace(*SHARES).tolist():
        tried = -share / (scheme.largest + 1)
        rounded = (units / tried).round_().clamp_(-scheme.largest - 1, scheme.largest).mul_(tried)
        loss = rounded.sub_(units).square_().mul_(costs).sum(dim=-1)
        best = torch.where(loss < least, share, best)
        least = torch.minimum(loss, least)
    return as_stored(torch.where(furthest == 0, furthest, scales * best), stored, scheme)


def as_stored(scales: Tensor, dtype: torch.dtype, scheme: QuantScheme) -> Tensor:
    """Return scales, (rows, groups), as they are stored, in ``dtype``: none of them is zero or infinite.

    Those that a float is too narrow for become the smallest or largest that it has, and 1 stands for zero, or of 8 bits
    the smallest that there is beside the others of the row.
    """
    limits = torch.finfo(dtype)
    sizes = scales.abs().clamp(limits.smallest_normal * limits.eps, limits.max)
    if scheme.scale_bits == 16:
        return torch.where(scales == 0, torch.ones_like(scales), sizes.copysign(scales)).to(dtype)
    # Of a row with others, a scale of zero must not be the largest.
    codes, unit = scale_codes(torch.where(scales == 0, scales, sizes.copysign(scales)), dtype)
    return expanded_scales(codes, unit)


def scale_codes(scales: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Return 8-bit codes of scales, (rows, groups) int8 and not zero, and the power of two of each row, (rows, 1).

    Of scales that are products of such codes and a power of two, exactly those products.

    Args:
        scales: (rows, groups).
        dtype: of the powers of two; by default that of the scales.
    """
    dtype = dtype or scales.dtype
    limits = torch.finfo(dtype)
    mantissa, exponent = torch.frexp(scales.double().abs().amax(dim=1, keepdim=True) / LARGEST_SCALE)
    exponent = torch.where(mantissa == 0.5, exponent - 1, exponent)  # the smallest power that is not below it
    unit = torch.exp2(exponent.double()).clamp(limits.smallest_normal * limits.eps, limits.max / 128)
    codes = (scales.double() / unit).round()
    codes = codes.abs().clamp(1, LARGEST_SCALE).copysign(scales.double())
    return codes.to(torch.int8), unit.to(dtype)


def expanded_scales(codes: Tensor, unit: Tensor) -> Tensor:
    """Return the scales that :func:`scale_codes` gives codes for, (rows, groups), in the dtype of the powers of two."""
    return codes.to(unit.dtype) * unit


def round_to_scheme(weight: Tensor, scales: Tensor, scheme: QuantScheme) -> Tensor:
    """Return the nearest code of each number, (rows, columns) int8.

    Args:
        weight: (rows, columns).
        scales: (rows, groups), as they will be stored.
        scheme: the groups and codes.
    """
    scale = scheme.per_column(scales.to(weight), weight.shape[1])
    return codes_of(weight, divisors(scale), scheme).to(torch.int8)


def from_codes(codes: Tensor, scales: Tensor, scheme: QuantScheme) -> Tensor:
    """Return the numbers that codes stand for, (rows, columns), in the dtype of the scales."""
    numbers, columns = codes.to(scales.dtype), codes.shape[1]
    if scheme.group is None or columns % scheme.group_size(columns):
        return numbers * scheme.per_column(scales, columns)
    # Whole groups: no scale is written down for each number, and no second matrix where none is needed.
    by_group = numbers.reshape(-1, columns // scheme.group_size(columns), scheme.group_size(columns))
    differentiable = torch.is_grad_enabled() and scales.requires_grad
    in_place = numbers is not codes and not differentiable
    return (by_group.mul_ if in_place else by_group.mul)(scales.unsqueeze(2)).flatten(1)


def codes_of(values: Tensor, scale: Tensor, scheme: QuantScheme) -> Tensor:
    """Return the nearest codes of numbers, in their dtype; scales broadcast."""
    return (values / scale).round().clamp(-scheme.largest - 1, scheme.largest)


def divisors(scales: Tensor) -> Tensor:
    """Return scales to divide by."""
    # Every code of a zero scale stands for zero. The quotient of two zeros is NaN, and would be fed back.
    return scales.masked_fill(scales == 0, math.inf)
