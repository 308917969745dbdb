"""The loop: epochs of steps, a look at what is held out after each, and the best state kept."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from eckart.methods.training.config import TrainingConfig
from eckart.methods.training.record import EpochRecord, TrainingRecord
from eckart.methods.training.run import TrainingRun


class Trainee(Protocol):
    """What is trained. Sequences go by their numbers."""

    def step(self, batch: Tensor, learning_rate: float) -> float:
        """Take one optimiser step on the sequences ``batch``, and return the sum of their losses before it."""
        ...

    def unit(self, sequences: Tensor) -> float:
        """Return what the sum of the losses of these sequences is divided by."""
        ...

    def loss(self, sequences: Tensor) -> float:
        """Return the sum of the losses of sequences with the present weights as they would be stored."""
        ...

    def is_finite(self) -> bool:
        """Return whether no weight is NaN or infinite as it would be stored."""
        ...

    def snapshot(self) -> None:
        """Remember the present state; it takes the place of what was remembered before."""
        ...


def train(
    config: TrainingConfig,
    trainee: Trainee,
    samples: int,
    run: TrainingRun,
) -> TrainingRecord:
    """Train, so that what the trainee remembers last is the best state.

    Args:
        config: how.
        trainee: what.
        samples: sequences that there are; the last ones are held out.
        run: the seed of their order, and what hears of each epoch.
    """
    generator = torch.Generator().manual_seed(run.seed)
    trained_on, _ = config.split(samples)
    held_out = torch.arange(trained_on, samples)

    def look() -> float | None:
        return trainee.loss(held_out) / trainee.unit(held_out) if len(held_out) else None

    trainee.snapshot()
    kept, epochs, step = 0, list[EpochRecord](), 0
    before = lowest = look()
    for number in range(1, config.epochs_on(samples) + 1):
        if before == 0:
            break  # nothing was lost, so nothing can be won
        order = torch.randperm(trained_on, generator=generator) if config.shuffle else torch.arange(trained_on)
        error = 0.0
        for batch in torch.split(order, config.batch):
            error += trainee.step(batch, config.rate(step, samples))
            step += 1
        now = look()
        if not (math.isfinite(error) and math.isfinite(now or 0) and trainee.is_finite()):
            break  # it diverged; what was best so far is kept
        epochs.append(EpochRecord(training=error / trainee.unit(order), held_out=now))
        run.on_epoch(number, epochs[-1])
        if now is None or lowest is None or now < lowest:
            trainee.snapshot()
            lowest, kept = now, number
        elif number - kept >= config.patience:
            break
    return TrainingRecord(before=before, after=lowest, kept_epoch=kept, epochs=epochs)
