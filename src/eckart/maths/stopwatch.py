"""Times a short run, on matrices of random numbers."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor

from eckart.device import synchronize


def random_matrix(rows: int, columns: int) -> Tensor:
    """Return normally distributed numbers, (rows, columns) float32, without moving the global seed."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the second of two runs: the first one allocates and loads libraries."""
    run()
    synchronize(device)
    start = perf_counter()
    run()
    synchronize(device)
    return perf_counter() - start
