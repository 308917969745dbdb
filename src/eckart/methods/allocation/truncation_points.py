"""Trains Dobi-SVD's truncation positions (arXiv 2502.02723, section 3.1), block by block forwards and backwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.discovery import Block, LinearRef, hooks
from eckart.errors import NonFiniteError
from eckart.maths.labels import label_loss
from eckart.maths.soft_truncation import soft_truncate
from eckart.methods.allocation.budgets import Budgets
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
    stream = original.enter()
    batches = list(original.batches())
    steps = numbers.epochs * len(batches)
    optimizer = torch.optim.Adam([p for p in training.positions.values() if p.requires_grad], lr=numbers.learning_rate)
    for step in range(steps):
        rate = (1 + math.cos(math.pi * step / steps)) / 2
        low, high = numbers.final_learning_rate, numbers.learning_rate
        optimizer.param_groups[0]["lr"] = low + (high - low) * rate
        index = step % len(batches)
        optimizer.zero_grad()
        training.accumulate(batches[index], stream[index])
        optimizer.step()
        progress(step + 1, steps)
    stream.delete()
    return {
        ref.path: min(max((float(training.positions[ref.path].detach()) + HALF) / training.size(ref), 0.0), 1.0)
        for ref in training.linears
    }


class TruncationTraining:
    """The positions, and the gradient of the loss with respect to them."""

    def __init__(self, original: BlockwiseModel, numbers: Numbers, budgets: Budgets, layout: Layout) -> None:
        self.original, self.numbers, self.budgets, self.layout = original, numbers, budgets, layout
        self.linears = [ref for block in original.blocks for ref in block.linears]
        self.length = original.tokens.shape[1]
        self.positions = {ref.path: self._start(ref) for ref in self.linears}

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
        return min(self.length, ref.out_features)

    def accumulate(self, tokens: Tensor, first: Tensor) -> None:
        """Add the gradient of the loss on one batch to the positions.

        Args:
            tokens: (batch, length) int64.
            first: hidden states in front of block 0.
        """
        self._byte_loss().backward()  # type: ignore[no-untyped-call]
        original = self.original
        fronts = [first]
        for index, block in enumerate(original.blocks):
            with original.onload(index), self._truncating(block), torch.no_grad():
                hidden = fronts[-1].to(original.device, _dtype(block), copy=True)
                fronts.append(original.arguments[index][hidden.shape[:2]](block.module, hidden))
        with original.head() as logits:
            leaf = fronts.pop().detach().clone().requires_grad_(True)
            tokens = tokens.to(original.device)
            loss, count = label_loss(logits(tokens, leaf), tokens)
            perplexity = (loss / count).exp()
            gradient = torch.autograd.grad(perplexity, leaf)[0].float()
        if not torch.isfinite(gradient).all():
            raise NonFiniteError(
                f"The perplexity of truncated outputs is {float(perplexity.detach())}: it gives no gradient."
            )
        for index in reversed(range(len(original.blocks))):
            gradient = self._backward(index, fronts.pop(), gradient)

    def _backward(self, index: int, front: Tensor, gradient: Tensor) -> Tensor:
        original = self.original
        block = original.blocks[index]
        positions = [p for ref in block.linears if (p := self.positions[ref.path]).requires_grad]
        with original.onload(index), self._truncating(block):
            leaf = front.to(original.device, _dtype(block), copy=True).requires_grad_(True)
            output = original.arguments[index][leaf.shape[:2]](block.module, leaf.clone())
            found = torch.autograd.grad(output, [leaf, *positions], gradient.to(output.dtype), allow_unused=True)
        for position, change in zip(positions, found[1:], strict=True):
            if change is not None:
                assert position.grad is not None
                position.grad += change.to(position.device)
        if not all(torch.isfinite(change).all() for change in found if change is not None):
            raise NonFiniteError(f"The gradient of the truncation positions of {block.path} is NaN or infinite.")
        return found[0].float() if found[0] is not None else torch.zeros_like(gradient)

    def _byte_loss(self) -> Tensor:
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

    @contextmanager
    def _truncating(self, block: Block) -> Iterator[None]:
        """Softly truncate the outputs of the linears of a block."""

        def truncate(ref: LinearRef) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
            def hook(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
                position = self.positions[ref.path].to(output.device)
                return soft_truncate(output, position, self.numbers.sharpness)

            return hook

        with hooks() as handles:
            for ref in block.linears:
                handles.append(block.module.get_submodule(ref.name).register_forward_hook(truncate(ref)))
            yield


def _dtype(block: Block) -> torch.dtype:
    """Return the dtype in which the block's weights are onloaded."""
    return next(parameter.dtype for parameter in block.module.parameters())
