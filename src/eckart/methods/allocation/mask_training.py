"""Trains monotone masks over the components of all linears, block by block forwards and backwards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from eckart.blocks.block import LinearRef
from eckart.blocks.block_arguments import Inputs
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.losses import divergence
from eckart.layers import bias_vector
from eckart.maths.monotone_mask import hard_mask, numbers_of_share, soft_mask
from eckart.methods.allocation.budgets import Budgets
from eckart.methods.allocation.output_training import OutputTraining
from eckart.methods.layout import Layout, dense_bytes
from eckart.methods.sensitivity.measure import Progress

Solutions = Mapping[str, tuple[Tensor, Tensor]]


class Numbers(Protocol):
    """The numbers of the training, as :class:`eckart.methods.allocation.Masks` has them."""

    @property
    def steps(self) -> int:
        """Of the optimiser."""
        ...

    @property
    def bins(self) -> int:
        """Trained numbers a linear."""
        ...

    @property
    def learning_rate(self) -> float:
        """Of Adam."""
        ...

    @property
    def penalty(self) -> float:
        """On the squared distance of the share of bytes from the budget."""
        ...


def train_masks(
    original: BlockwiseModel,
    solutions: Solutions,
    numbers: Numbers,
    budgets: Budgets,
    layout: Layout,
    progress: Progress,
) -> dict[str, int]:
    """Return the trained rank of each linear by path, from 1 to min(m, n).

    The loss of a step is the KL divergence of the masked model's predictions from those of the original one on one
    sample, a prediction, plus ``penalty (share of bytes - keep)^2`` of each budget. Linears whose rank is said have
    that one, and those of which all is kept are not masked.

    Args:
        original: with the samples to train on.
        solutions: basis and dual of each linear, (m, p), by path.
        numbers: of the training.
        budgets: bytes to keep, as shares.
        layout: what a rank costs.
        progress: is called with (steps done, steps to do).

    Raises:
        NonFiniteError: the loss or a gradient is NaN or infinite.
    """
    original = replace(original, calibration=replace(original.known, one_by_one=True), arguments={})
    training = MaskTraining(original, solutions, numbers, budgets, layout)
    samples = [original.batch(number) for number in range(min(len(original.known), numbers.steps))]
    trained = [tensor for tensor in training.trained.values() if tensor.requires_grad]
    if not trained:  # all sizes are said
        return {ref.path: training.rank(ref) for ref in training.linears}
    optimizer = torch.optim.Adam(trained, lr=numbers.learning_rate)
    for step in range(numbers.steps):
        optimizer.zero_grad()
        sample = samples[step % len(samples)]
        training.accumulate(sample, _ends(sample))
        optimizer.step()
        progress(step + 1, numbers.steps)
    return {ref.path: training.rank(ref) for ref in training.linears}


def _ends(sample: BlockwiseModel) -> dict[int, Tensor]:
    """Return what the blocks give that the head looks at, on one sample."""
    streams = sample.forward()
    found = {number: stream[0].clone() for number, stream in sample.ends_of(streams.behinds).items()}
    streams.delete_all()
    return found


class MaskTraining(OutputTraining):
    """The numbers of each linear's mask, and the gradient of the loss with respect to them."""

    of_what = "masks"
    loss_name = "divergence"

    def __init__(
        self, original: BlockwiseModel, solutions: Solutions, numbers: Numbers, budgets: Budgets, layout: Layout
    ) -> None:
        self.original, self.solutions, self.numbers = original, solutions, numbers
        self.budgets, self.layout = budgets, layout
        self.linears = [ref for block in original.blocks for ref in block.linears]
        self.trained = {ref.path: self._start(ref) for ref in self.linears}

    def _start(self, ref: LinearRef) -> Tensor:
        """Return the numbers of a mask whose sum is the rank of the uniform share of a linear's budget."""
        size = self.budgets.size(ref.path)
        if size.keep is None or size.keep >= 1:
            return torch.zeros(self.numbers.bins)
        rank = self.layout.beside_bias(ref.has_bias).rank_of_share(*ref.shape, size.keep) or min(ref.shape)
        return numbers_of_share(rank / min(ref.shape), self.numbers.bins).requires_grad_(True)

    def mask(self, ref: LinearRef) -> Tensor:
        """Return the soft mask of a linear, (min(m, n),)."""
        size = self.budgets.size(ref.path)
        components = min(ref.shape)
        if self.trained[ref.path].requires_grad:
            return soft_mask(self.trained[ref.path], components)
        kept = components if size.rank is None else min(size.rank, components)
        return (torch.arange(components) < kept).float()

    def rank(self, ref: LinearRef) -> int:
        """Return the rank of a linear: the sum of its mask, rounded."""
        return max(round(float(self.mask(ref).detach().sum())), 1)

    def batch_loss(self, output: Any, expected: Any, inputs: Inputs) -> Tensor:
        """Return the divergence of one batch, a prediction."""
        loss, count = divergence(output, expected, inputs, predicts_next=self.original.predicts_next)
        return loss / max(count, 1)

    def changed(self, ref: LinearRef, linear: nn.Module, output: Tensor) -> Tensor:
        """Return the output of the components that the hard mask lets pass; where they cost as much, the output itself.

        The gradient is that of the mask in either case.
        """
        mask, is_trained = self.mask(ref), self.trained[ref.path].requires_grad
        if not is_trained and bool(mask.all()):
            return output
        basis, dual = (known.to(output) for known in self.solutions[ref.path])
        bias = bias_vector(linear)
        plain = output if bias is None else output - bias
        gates = hard_mask(mask).to(output)
        if is_trained and float(self._bytes(ref, mask.detach().sum())) >= dense_bytes(*ref.shape):
            # The gradient at the inputs is that of the weight, and the one at the mask as if it were factored.
            masked = ((plain.detach() @ dual) * gates) @ basis.T
            return output + (masked - masked.detach())
        masked = ((plain @ dual) * gates) @ basis.T
        return masked if bias is None else masked + bias

    def byte_loss(self) -> Tensor:
        """Return the part of the loss that does not look at data."""
        missed = torch.zeros(())
        for budget, linears in self.budgets.split(self.linears):
            if budget.keep is None or budget.keep >= 1:
                continue
            total, dense = torch.zeros(()), 0
            for ref in linears:
                size, whole = self._bytes(ref, self.mask(ref).sum()), dense_bytes(*ref.shape)
                # No linear takes more than its weight; the slope goes on, so that it can come back.
                total = total + size.detach().clamp(max=whole) + (size - size.detach())
                dense += whole
            missed = missed + (total / dense - budget.keep).square()
        return self.numbers.penalty * missed

    def _bytes(self, ref: LinearRef, rank: Tensor) -> Tensor:
        """Return the bytes of a linear, a straight line between two whole ranks and beyond the largest one."""
        layout = self.layout.beside_bias(ref.has_bias)
        highest = max(layout.highest_rank(*ref.shape), 1)
        below = min(max(math.floor(float(rank.detach())), 0), highest - 1)
        low, high = (layout.bytes(*ref.shape, r) if r else 0 for r in (below, below + 1))
        return low + (high - low) * (rank - below)
