"""Timings of single steps on this machine, from which the time of a measurement is told beforehand."""

from __future__ import annotations

from dataclasses import dataclass

import torch

BACKWARD = 3  # a backward pass with its own forward pass takes about as long as three of those


@dataclass(frozen=True)
class StepSeconds:
    """Seconds of single steps, and how large the model is that they are of.

    Attributes:
        block: one batch of calibration tokens through one block.
        moments: the products of that batch for the block's second moments.
        head: that batch through the head.
        batch_tokens: in it.
        blocks: of the model.
        shapes: (m, n) of the linears of the largest block.
        samples: of the calibration.
        length: tokens in each.
        device: where blocks are run.
    """

    block: float
    moments: float
    head: float
    batch_tokens: int
    blocks: int
    shapes: tuple[tuple[int, int], ...]
    samples: int
    length: int
    device: torch.device

    @property
    def batches(self) -> float:
        """Batches of all calibration tokens."""
        return self.samples * self.length / self.batch_tokens

    def crop(self, samples: int | None, length: int | None) -> tuple[int, int]:
        """Return how many samples there are, and tokens in each, if so many are asked for; None for all."""
        return min(samples or self.samples, self.samples), min(length or self.length, self.length)
