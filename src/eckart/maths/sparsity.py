r"""Semi-structured sparsity: of 4 neighbours in a row 2 stay, the rest is zero (the 2:4 pattern).

Which stay is chosen as in Wanda (arXiv 2306.11695): those of largest ``|w_ij| sqrt(S_jj)``, S being the second moment
of what the matrix is multiplied with. A row whose length is no multiple of 4 ends in a group that is filled up with
zeros.

Everything here is a pure function of tensors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from eckart.maths.packing import pack, unpack

GROUP = 4  # neighbours, of which half stay
SMALLEST_IMPORTANCE = 1e-6  # of the largest: columns that no input reaches are told apart by their numbers


def group_count(columns: int) -> int:
    """Return how many groups a row of ``columns`` numbers has."""
    return math.ceil(columns / GROUP)


def prune(weight: Tensor, second_moment: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the numbers that stay and where they are in their groups.

    Args:
        weight: (rows, columns).
        second_moment: S of the inputs, (columns, columns); None if all columns matter the same.

    Returns:
        Two a group: the numbers, (rows, 2 groups) in the dtype of the weight, and their places from 0 to 3, rising
        within a group, (rows, 2 groups) int64.
    """
    rows, columns = weight.shape
    groups = group_count(columns)
    importance = torch.ones_like(weight[0])
    if second_moment is not None:
        sizes = second_moment.diagonal().to(weight).clamp_min(0).sqrt()
        if sizes.any():
            importance = sizes.clamp_min(SMALLEST_IMPORTANCE * sizes.max())
    padding = (0, groups * GROUP - columns)
    scores = functional.pad(weight.abs() * importance, padding).reshape(rows, groups, GROUP)
    places = scores.topk(GROUP // 2, dim=-1).indices.sort(dim=-1).values
    kept = functional.pad(weight, padding).reshape(rows, groups, GROUP).gather(-1, places)
    return kept.flatten(1), places.flatten(1)


def pack_places(places: Tensor) -> Tensor:
    """Return places, (rows, 2 groups) from 0 to 3, in 2 bits each: (rows, groups / 2 rounded up) uint8."""
    return pack((places[:, ::2] + 4 * places[:, 1::2] - 8).to(torch.int8), bits=4)


def from_pruned(kept: Tensor, packed: Tensor, columns: int) -> Tensor:
    """Return the matrix, (rows, columns), of numbers that stay, (rows, 2 groups), and their packed places."""
    both = unpack(packed, 4, group_count(columns)).to(torch.int64) + 8
    starts = GROUP * torch.arange(both.shape[1], device=both.device)
    places = torch.stack([starts + both % 4, starts + both // 4], dim=-1).flatten(1)
    return kept.new_zeros(len(kept), GROUP * both.shape[1]).scatter(1, places, kept)[:, :columns]


def numbers_per_row(columns: int, sparsity: float) -> int:
    """Return how many of ``columns`` numbers of a row stay if one in ``sparsity`` does; at least 1."""
    # The floor must not fall one short because 33 / 1.1 is 29.999... in binary.
    return max(1, math.floor(columns / sparsity + 1e-9))


def mask_width(columns: int) -> int:
    """Return the bytes of a row of a mask."""
    return math.ceil(columns / 8)


def pack_mask(mask: Tensor) -> Tensor:
    """Return a mask, (rows, columns) bool, in a bit each: (rows, :func:`mask_width`) uint8, the lowest bit first."""
    bits = functional.pad(mask.to(torch.uint8), (0, -mask.shape[1] % 8)).reshape(len(mask), -1, 8)
    places = torch.arange(8, dtype=torch.uint8, device=mask.device)
    return (bits << places).sum(dim=-1).to(torch.uint8)


def unpack_mask(packed: Tensor, columns: int) -> Tensor:
    """Return what :func:`pack_mask` packed, (rows, columns) bool."""
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    bits = (packed[..., None] >> places) & 1
    return bits.flatten(1)[:, :columns].to(torch.bool)
