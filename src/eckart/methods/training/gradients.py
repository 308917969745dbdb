"""Adds the gradients of a step over all processes, each of which has those of its own sequences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from eckart import processes


def add_gradients(parameters: Sequence[nn.Parameter], loss: float = 0.0) -> float:
    """Let each parameter have its whole gradient, and return the whole loss.

    A parameter that no sequence reaches anywhere has none, as in one process: an optimiser leaves it where it is.
    """
    if processes.size() == 1:
        return loss
    reached = [parameter.grad is not None for parameter in parameters]
    numbers = processes.total(loss, *map(float, reached))
    for parameter, count in zip(parameters, numbers[1:], strict=True):
        if count and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    processes.add(p.grad for p in parameters if p.grad is not None)
    return numbers[0]
