"""Trains Dobi-SVD's truncation positions (arXiv 2502.02723, section 3.1), block by block forwards and backwards."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from eckart.blocks.block import LinearRef
from eckart.blocks.block_arguments import Inputs
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.losses import model_loss
from eckart.maths.soft_truncation import soft_truncate
from eckart.methods.allocation.budgets import Budgets
from eckart.methods.allocation.output_training import OutputTraining
from eckart.methods.layout import Layout, dense_bytes
from eckart.methods.sensitivity.measure import Progress

HALF = 0.5  # components are counted from 0, so that a position passes half a component more than its number


class Numbers(Protocol):
    """The numbers of the training, as :class:`eckart.methods.allocation.Learned` has them."""

    @property
    def epochs(self) -> int:
        """Passes over the samples."""
        ...

    @property
    def learning_rate(self) -> float:
        """Of Adam, at the start."""
        ...

    @property
    def final_learning_rate(self) -> float:
        """At the end."""
        ...

    @property
    def penalty(self) -> float:
        """On the distance of the share of bytes from the budget."""
        ...

    @property
    def sharpness(self) -> float:
        """Of the gate."""
        ...


def train_truncation_points(
    original: BlockwiseModel, numbers: Numbers, budgets: Budgets, layout: Layout, progress: Progress
) -> dict[str, float]:
    """Return the trained position of each linear, as a share of min(m, n), by path.

    The loss of a step is the perplexity of one batch with all outputs softly truncated, plus
    ``penalty |share of bytes - keep|`` of each budget, plus a linear penalty on positions outside of the singular
    values. Linears whose rank is said are truncated there, and those of which all is kept are not; their positions are
    not trained.

    Args:
        original: with the samples to train on.
        numbers: of the training.
        budgets: bytes to keep, as shares.
        layout: what a rank costs.
        progress: is called with (steps done, steps to do).

    Raises:
        NonFiniteError: the loss or a gradient is NaN or infinite.
    """
    training = TruncationTraining(original, numbers, budgets, layout)
    batches = [original.batch(number) for number, _ in enumerate(original.batches())]
    steps = numbers.epochs * len(batches)
    optimizer = torch.optim.Adam([p for p in training.positions.values() if p.requires_grad], lr=numbers.learning_rate)
    for step in range(steps):
        rate = (1 + math.cos(math.pi * step / steps)) / 2
        low, high = numbers.final_learning_rate, numbers.learning_rate
        optimizer.param_groups[0]["lr"] = low + (high - low) * rate
        optimizer.zero_grad()
        training.accumulate(batches[step % len(batches)])
        optimizer.step()
        progress(step + 1, steps)
    return {
        ref.path: min(max((float(training.positions[ref.path].detach()) + HALF) / training.size(ref), 0.0), 1.0)
        for ref in training.linears
    }


class TruncationTraining(OutputTraining):
    """The positions, and the gradient of the loss with respect to them."""

    of_what = "truncation positions"
    loss_name = "perplexity"

    def __init__(self, original: BlockwiseModel, numbers: Numbers, budgets: Budgets, layout: Layout) -> None:
        self.original, self.numbers, self.budgets, self.layout = original, numbers, budgets, layout
        self.linears = [ref for block in original.blocks for ref in block.linears]
        # Where samples are no rows of tokens, of the one that the model was probed with.
        rows = {ref.path: block.rows for block in original.blocks for ref in block.linears}
        length = None if original.known.tokens is None else original.known.length
        self.lengths = {path: length or rows[path] for path in rows}
        self.positions = self.trained = {ref.path: self._start(ref) for ref in self.linears}

    def _start(self, ref: LinearRef) -> Tensor:
        """Return where a linear starts: at the uniform share of its budget."""
        size, layout = self.budgets.size(ref.path), self.layout.beside_bias(ref.has_bias)
        if size.keep is None:
            rank = min(size.rank or 0, *ref.shape)
        elif size.keep < 1:
            rank = layout.rank_of_share(*ref.shape, size.keep) or 0
        else:
            rank = min(ref.shape)
        trained = size.keep is not None and size.keep < 1
        return torch.tensor(self.size(ref) * rank / min(ref.shape) - HALF, requires_grad=trained)

    def size(self, ref: LinearRef) -> int:
        """Return how many singular values the outputs of one sequence have."""
        return min(self.lengths[ref.path], ref.out_features)

    def batch_loss(self, output: Any, expected: Any, inputs: Inputs) -> Tensor:
        """Return the perplexity of one batch."""
        loss, count = model_loss(output, inputs, predicts_next=self.original.predicts_next)
        return (loss / count).exp()

    def changed(self, ref: LinearRef, linear: nn.Module, output: Tensor) -> Tensor:
        """Return the softly truncated output."""
        return soft_truncate(output, self.positions[ref.path].to(output.device), self.numbers.sharpness)

    def byte_loss(self) -> Tensor:
        """Return the part of the loss that does not look at data."""
        missed, outside = torch.zeros(()), torch.zeros(())
        for budget, linears in self.budgets.split(self.linears):
            if budget.keep is None or budget.keep >= 1:
                continue
            total, dense = torch.zeros(()), 0
            for ref in linears:
                position, size = self.positions[ref.path], self.size(ref)
                rank = (position + HALF) / size * min(ref.shape)
                total = total + self._bytes(ref, rank)
                dense += dense_bytes(*ref.shape)
                outside = outside + (-position).relu() + (position - size).relu()
            missed = missed + (total / dense - budget.keep).abs()
        return self.numbers.penalty * missed + outside

    def _bytes(self, ref: LinearRef, rank: Tensor) -> Tensor:
        """Return the bytes of a linear, a straight line between two whole ranks, so that they have a slope."""
        highest = self.layout.highest_rank(*ref.shape)
        below = min(max(math.floor(float(rank.detach())), 0), highest - 1)
        layout = self.layout.beside_bias(ref.has_bias)
        low, high = (layout.bytes(*ref.shape, r) if r else 0 for r in (below, below + 1))
        return torch.clamp(low + (high - low) * (rank - below), max=dense_bytes(*ref.shape))
