"""Trains Dobi-SVD's truncation positions (arXiv 2502.02723, section 3.1), block by block forwards and backwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from eckart.blocks.backward import BackwardPass
from eckart.blocks.block import Block, LinearRef, hooks
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.losses import model_loss
from eckart.errors import NonFiniteError
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


class TruncationTraining:
    """The positions, and the gradient of the loss with respect to them."""

    def __init__(self, original: BlockwiseModel, numbers: Numbers, budgets: Budgets, layout: Layout) -> None:
        self.original, self.numbers, self.budgets, self.layout = original, numbers, budgets, layout
        self.linears = [ref for block in original.blocks for ref in block.linears]
        # Where samples are no rows of tokens, of the one that the model was probed with.
        rows = {ref.path: block.rows for block in original.blocks for ref in block.linears}
        length = None if original.known.tokens is None else original.known.length
        self.lengths = {path: length or rows[path] for path in rows}
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
        return min(self.lengths[ref.path], ref.out_features)

    def accumulate(self, batch: BlockwiseModel) -> None:
        """Add the gradient of the loss on one batch to the positions.

        Args:
            batch: the model, with its samples.
        """
        self._byte_loss().backward()  # type: ignore[no-untyped-call]
        (inputs,) = batch.batches()
        streams = batch.forward(self._truncating)
        gradient = BackwardPass(batch, streams)
        with batch.head() as head:
            leaves = {
                n: stream[0].to(batch.device, batch.model.dtype, copy=True).requires_grad_(True)
                for n, stream in batch.ends_of(streams.behinds).items()
            }
            with torch.enable_grad():
                loss, count = model_loss(head(inputs, leaves), inputs, predicts_next=batch.predicts_next)
                perplexity = (loss / count).exp()
            found = torch.autograd.grad(perplexity, list(leaves.values()), allow_unused=True)
        if not all(torch.isfinite(part).all() for part in found if part is not None):
            raise NonFiniteError(
                f"The perplexity of truncated outputs is {float(perplexity.detach())}: it gives no gradient."
            )
        gradient.add_behind(
            {n: torch.zeros_like(t) if g is None else g for (n, t), g in zip(leaves.items(), found, strict=True)}
        )
        for index in reversed(range(len(batch.blocks))):
            self._backward(batch, index, gradient)
        streams.delete_all()

    def _backward(self, batch: BlockwiseModel, index: int, gradient: BackwardPass) -> None:
        block = batch.blocks[index]
        positions = [p for ref in block.linears if (p := self.positions[ref.path]).requires_grad]
        with batch.onload(index), self._truncating(block):
            found = gradient.step(index, more=positions)
        for position, change in zip(positions, found, strict=True):
            if change is not None:
                assert position.grad is not None
                position.grad += change.to(position.device)
        if not all(torch.isfinite(change).all() for change in found if change is not None):
            raise NonFiniteError(f"The gradient of the truncation positions of {block.path} is NaN or infinite.")

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
