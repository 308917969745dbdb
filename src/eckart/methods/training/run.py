"""What a training is told beside its numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from eckart.methods.training.record import EpochRecord


@dataclass(frozen=True)
class TrainingRun:
    """One training, on one machine.

    Attributes:
        compute: dtype of matrix products; weights and sums are float32 throughout.
        seed: of the order of the sequences.
        recompute: compute activations twice, instead of holding them.
        on_epoch: is called with the number of each finished epoch, from 1, and its losses.
    """

    compute: torch.dtype
    seed: int
    recompute: bool = False
    on_epoch: Callable[[int, EpochRecord], None] = lambda number, record: None
