"""Block refinement: train a compressed block to give what the original one gives (AA-SVD, arXiv 2604.02119, sec. 3.3).

With the block's input x' from the compressed stream and its target y = B(x) from the original stream, every parameter
of the compressed block B' (factors, norms, biases) is trained to

    minimise   mean over all elements of (B'(x') - y)^2.

Beyond the paper: weights are trained in float32, whatever dtype they are stored in; a share of the calibration
sequences is held out of the training, and decides when to stop and which state is kept, the one before the training
included; sequences are shuffled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from eckart.errors import CalibrationError
from eckart.refinement.activations import checkpointed
from eckart.refinement.base import Refinement
from eckart.refinement.record import EpochRecord, RefinementRecord
from eckart.refinement.schedule import learning_rate_factor
from eckart.refinement.training import Sequences, Training, is_finite
from eckart.statistics import Calls


class BlockRefinement(Refinement):
    """AdamW on every parameter of a block; the defaults are those of the paper where it has the number.

    Attributes:
        epochs: passes over the training sequences, at most.
        batch: sequences in an optimiser step; run in smaller parts whose gradients add up.
        learning_rate: at its highest.
        betas: of AdamW.
        weight_decay: of AdamW.
        warmup: share of the steps in which the learning rate rises.
        final_learning_rate: at the end, as a share of the highest.
        gradient_norm: gradients are scaled down to this norm, taken over the block.
        shuffle: whether the sequences are in a new order in each epoch.
        held_out: share of the sequences that are not trained on; 0 keeps the last state whatever it is, as published.
        patience: epochs without a better state on the held-out sequences after which training stops.
    """

    name: Literal["block"] = "block"
    needs_data: ClassVar[bool] = True
    epochs: int = Field(25, ge=1)
    batch: int = Field(32, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    final_learning_rate: float = Field(0.1, ge=0, le=1)
    gradient_norm: float = Field(1.0, gt=0)
    shuffle: bool = True
    held_out: float = Field(0.125, ge=0, lt=1)
    patience: int = Field(5, ge=1)

    def split(self, samples: int) -> tuple[int, int]:
        """Return how many sequences are trained on, and how many are held out.

        Raises:
            CalibrationError: there are too few for both.
        """
        held_out = max(1, round(self.held_out * samples)) if self.held_out else 0
        if samples <= held_out:
            raise CalibrationError(
                f"Block refinement trains on some calibration samples and holds {self.held_out:g} of them out; "
                f"found {samples}. Use at least 2 samples, or --set refinement.held_out=0."
            )
        return samples - held_out, held_out

    def steps(self, samples: int) -> int:
        """Return the optimiser steps in all epochs."""
        training, _ = self.split(samples)
        return self.epochs * -(-training // self.batch)

    def optimiser(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimiser of one block's parameters."""
        return torch.optim.AdamW(parameters, self.learning_rate, self.betas, weight_decay=self.weight_decay)

    def batch_sizes(self, samples: int, batch: int) -> set[int]:
        """See :meth:`Refinement.batch_sizes`."""
        training, held_out = self.split(samples)
        steps = {min(self.batch, training), training % self.batch}
        return {size for count in (*steps, held_out) for size in (min(batch, count), count % batch) if size}

    def refine(
        self,
        block: nn.Module,
        path: str,
        calls: Calls,
        sequences: Sequences,
        stored: Mapping[str, torch.dtype],
        compute: torch.dtype,
        seed: int,
        checkpoint_activations: bool = False,
        on_epoch: Callable[[int, EpochRecord], None] = lambda number, record: None,
    ) -> RefinementRecord:
        """Train ``block`` in place; its parameters end as numbers of their stored dtypes.

        Args:
            block: compressed, on its device.
            path: its name, for the record.
            calls: how the model calls it, by (batch, length).
            sequences: inputs and targets.
            stored: dtype by parameter name, that each is saved in.
            compute: dtype of matrix products; weights and sums are float32 throughout.
            seed: of the order of the sequences.
            checkpoint_activations: compute what the children of the block hold twice, instead of holding it.
            on_epoch: is called with the number of each finished epoch, from 1, and its losses.
        """
        training = Training(self.optimiser, self.gradient_norm, block, calls, sequences, stored, compute)
        with checkpointed(block) if checkpoint_activations else nullcontext():
            return self._train(training, path, seed, on_epoch)

    def _train(
        self, training: Training, path: str, seed: int, on_epoch: Callable[[int, EpochRecord], None]
    ) -> RefinementRecord:
        samples = len(training.sequences)
        generator = torch.Generator().manual_seed(seed)
        trained_on, _ = self.split(samples)
        held_out = torch.arange(trained_on, samples)
        best, kept, epochs = training.rounded(), 0, list[EpochRecord]()
        before = lowest = training.loss(held_out, best)
        steps, step = self.steps(samples), 0
        for number in range(1, self.epochs + 1):
            if before == 0:
                break  # nothing was lost, so nothing can be won
            order = torch.randperm(trained_on, generator=generator) if self.shuffle else torch.arange(trained_on)
            error = 0.0
            for batch in torch.split(order, self.batch):
                factor = learning_rate_factor(step, steps, self.warmup, self.final_learning_rate)
                error += training.step(batch, self.learning_rate * factor)
                step += 1
            state = training.rounded()
            now = training.loss(held_out, state)
            if not (math.isfinite(error) and math.isfinite(now or 0) and is_finite(state)):
                break  # it diverged; what was best so far is kept
            epochs.append(EpochRecord(training=error / training.change(order), held_out=now))
            on_epoch(number, epochs[-1])
            if now is None or lowest is None or now < lowest:
                best, lowest, kept = state, now, number
            elif number - kept >= self.patience:
                break
        training.finish(best)
        return RefinementRecord(block=path, before=before, after=lowest, kept_epoch=kept, epochs=epochs)
