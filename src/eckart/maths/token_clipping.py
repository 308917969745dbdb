"""Gradients of single tokens made more alike in length before their second moment is taken (arXiv 2610.32878)."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 1e-10  # length below which a gradient counts as none, as published


def clip_lengths(gradients: Tensor, low: float, high: float) -> Tensor:
    """Return gradients whose lengths lie between ``low`` and ``high`` times the mean length of their sequence.

    Longer ones are made shorter, and shorter ones longer; those of next to no length stay as they are and are not in
    the mean.

    Args:
        gradients: (sequences, tokens, m), any float dtype.
        low: smallest length, in mean lengths.
        high: largest.
    """
    lengths = gradients.float().norm(dim=-1, keepdim=True)
    counts = lengths >= SMALLEST
    mean = (lengths * counts).sum(dim=1, keepdim=True) / counts.sum(dim=1, keepdim=True).clamp_min(1)
    wanted = lengths.clamp(low * mean, high * mean)
    return gradients * torch.where(counts, wanted / lengths.clamp_min(SMALLEST), torch.ones_like(lengths))


def trimmed(gradients: Tensor, share: float) -> Tensor:
    """Return gradients without those of the first and the last tokens of each sequence, ``int(share tokens)`` each.

    Args:
        gradients: (sequences, tokens, m).
        share: of the tokens, below one half.
    """
    left_out = int(share * gradients.shape[1])
    return gradients[:, left_out : gradients.shape[1] - left_out]
