r"""Masks over the components of a weight that never rise along its spectrum (ARA, arXiv 2510.19389).

D numbers give probabilities ``p = softmax(theta)``, and ``q_d = p_d + ... + p_D``, which starts at 1 and never rises,
whatever the numbers are. Component i of N has the mask ``q_d`` at ``d = ceil(i D / N)``. Every number moves the whole
mask. Everything here is a pure function of tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor


def soft_mask(numbers: Tensor, size: int) -> Tensor:
    """Return the mask (size,), from 1 down to above 0, in the dtype of the numbers.

    Args:
        numbers: theta, (D,), of a float dtype; may need a gradient.
        size: N, of components.
    """
    bins = len(numbers)
    tails = numbers.softmax(0).flip(0).cumsum(0).flip(0)
    # Rounding makes of their sum, which is one, a little more or less.
    tails = tails / tails[0].detach()
    places = -(-torch.arange(1, size + 1, device=numbers.device) * bins // size) - 1
    return tails[places]


def hard_mask(mask: Tensor) -> Tensor:
    """Return 1 for as many of the first components as the mask's sum, rounded, and 0 behind.

    The gradient is that of the mask.

    Args:
        mask: soft, (size,).
    """
    rank = round(float(mask.detach().sum()))
    hard = (torch.arange(len(mask), device=mask.device) < rank).to(mask)
    return hard + (mask - mask.detach())


def numbers_of_share(share: float, bins: int) -> Tensor:
    """Return numbers (bins,), float32, falling or rising by equal steps, whose mask has a mean of about ``share``."""
    steps = torch.linspace(-1, 1, bins, dtype=torch.float64)
    low, high = -200.0, 200.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float(soft_mask(middle * steps, bins).mean()) < share else (low, middle)
    return (high * steps).float()
