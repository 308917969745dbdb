"""The numbers of a training: steps, batches, learning rate, what is held out."""

from __future__ import annotations

import math
from typing import ClassVar, Self

import torch
from pydantic import Field
from torch import nn

from eckart.errors import CalibrationError
from eckart.methods.choice import Choice
from eckart.methods.training.schedule import learning_rate_factor

LEAST_TOKENS = 512  # in a step on samples that are not rows of a text


class TrainingConfig(Choice):
    """AdamW with a learning rate that rises and falls, and a guard on sequences that are not trained on.

    The guard is no part of any published method; ``held_out=0`` and ``shuffle=False`` take it off.

    Attributes:
        epochs: passes over the training sequences, at most.
        max_steps: bound on the optimiser steps of all epochs, of which there are fewer then, but one; None for none.
        batch: sequences in an optimiser step; run in smaller parts whose gradients add up. Of short samples that are
            no rows of a text there are more (see :meth:`on_short_samples`).
        learning_rate: at its highest.
        relative: whether the learning rate of each tensor is multiplied by the root mean square of its numbers at the
            start: scales of codes are a thousandth of what factors are, and one step must not undo them.
        betas: of AdamW.
        weight_decay: of AdamW.
        warmup: share of the steps in which the learning rate rises; what is left of a step is cut off.
        final_learning_rate: at the end, as a share of the highest.
        gradient_norm: gradients of a block are scaled down to this norm, taken over the block.
        shuffle: whether the sequences are in a new order in each epoch.
        held_out: share of the sequences that are not trained on, and decide which state is kept, the one before the
            training included; 0 keeps the last one whatever it is.
        patience: epochs without a better state on the held-out sequences after which training stops.
    """

    what: ClassVar[str]  # for messages: what trains, and the place of a recipe that it is chosen in
    place: ClassVar[str]

    epochs: int = Field(25, ge=1)
    max_steps: int | None = Field(None, ge=1)
    batch: int = Field(32, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    relative: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    final_learning_rate: float = Field(0.1, ge=0, le=1)
    gradient_norm: float = Field(1.0, gt=0)
    shuffle: bool = True
    held_out: float = Field(0.125, ge=0, lt=1)
    patience: int = Field(5, ge=1)

    def on_short_samples(self, tokens: float) -> Self:
        """Return the same training with batches of at least :data:`LEAST_TOKENS`.

        A step on a sentence alone follows that sentence, and undoes more than it mends.

        Args:
            tokens: in a sample, on average.
        """
        return self.model_copy(update={"batch": max(self.batch, math.ceil(LEAST_TOKENS / tokens))})

    def split(self, samples: int) -> tuple[int, int]:
        """Return how many sequences are trained on, and how many are held out.

        Raises:
            CalibrationError: there are too few for both.
        """
        held_out = max(1, round(self.held_out * samples)) if self.held_out else 0
        if samples <= held_out:
            raise CalibrationError(
                f"{self.what} trains on some calibration samples and holds {self.held_out:g} of them out; "
                f"found {samples}. Use more samples, or a smaller share: --set {self.place}.held_out."
            )
        return samples - held_out, held_out

    def epochs_on(self, samples: int) -> int:
        """Return how many epochs there are, at most, on so many samples."""
        if self.max_steps is None:
            return self.epochs
        return min(self.epochs, max(1, self.max_steps // self._steps_an_epoch(samples)))

    def steps(self, samples: int) -> int:
        """Return the optimiser steps in all epochs."""
        return self.epochs_on(samples) * self._steps_an_epoch(samples)

    def _steps_an_epoch(self, samples: int) -> int:
        training, _ = self.split(samples)
        return -(-training // self.batch)

    def batch_sizes(self, samples: int, batch: int) -> set[int]:
        """Return in how large batches of calibration sequences a block will be run.

        Args:
            samples: calibration sequences in all.
            batch: how many of them go through a block at once.
        """
        training, held_out = self.split(samples)
        steps = {min(self.batch, training), training % self.batch}
        return {size for count in (*steps, held_out) for size in (min(batch, count), count % batch) if size}

    def rate(self, step: int, samples: int) -> float:
        """Return the learning rate of a step, counted from 0, of a training on so many samples."""
        factor = learning_rate_factor(step, self.steps(samples), self.warmup, self.final_learning_rate)
        return self.learning_rate * factor

    def optimiser(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimiser of one block's parameters."""
        groups = [{"params": [parameter], "size": self._size(parameter)} for parameter in parameters]
        return torch.optim.AdamW(groups, self.learning_rate, self.betas, weight_decay=self.weight_decay)

    def step(self, optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
        """Take a step of an optimiser along the gradients that there are, and clear them."""
        nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], self.gradient_norm)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * group["size"]
        optimiser.step()
        optimiser.zero_grad()

    def _size(self, parameter: nn.Parameter) -> float:
        return float(parameter.detach().square().mean().sqrt()) if self.relative and parameter.numel() else 1.0
