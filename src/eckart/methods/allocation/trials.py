"""Measures the model's loss with one linear truncated at a time, for all linears and several ranks, in one walk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from eckart.blocks.argument_table import Arguments, forked
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.passes import HiddenStates
from eckart.layers import weight_matrix
from eckart.methods.sensitivity.measure import Progress


def trial_losses(
    original: BlockwiseModel,
    solutions: Mapping[str, tuple[Tensor, Tensor]],
    ranks: Mapping[str, Sequence[int]],
    progress: Progress,
) -> dict[str, dict[int, float]]:
    """Return the mean next-token loss, in nats, by path and rank.

    The hidden states of all truncations so far are carried along side by side, so that each block is onloaded only
    once.

    Args:
        original: with the samples to measure on.
        solutions: basis and dual of each linear, (m, p), by path.
        ranks: to try, by path.
        progress: is called with (blocks done, blocks to do).

    Returns:
        A loss for each path and rank; one that is not finite counts as infinite.
    """
    base = Trial("measured")
    trials: dict[tuple[str, int], Trial] = {}
    for index, block in enumerate(original.blocks):
        if block.enters:
            for trial in (base, *trials.values()):
                trial.enter(original, index)
        with original.onload(index):
            for trial in trials.values():
                trial.advance(original, index)
            for ref in block.linears:
                weight = weight_matrix(block.module.get_submodule(ref.name))
                basis, dual = solutions[ref.path]
                for rank in ranks[ref.path]:
                    with _truncated(weight, basis[:, :rank], dual[:, :rank]):
                        trials[ref.path, rank] = base.branch(original, index, f"trial-{ref.path}-{rank}")
            base.advance(original, index)
        progress(index + 1, len(original.blocks))
    losses = original.mean_losses([trial.taps for trial in trials.values()])
    found: dict[str, dict[int, float]] = {}
    for (path, rank), loss in zip(trials, losses, strict=True):
        found.setdefault(path, {})[rank] = loss if loss == loss else float("inf")
    for trial in (base, *trials.values()):
        trial.delete()
    return found


@dataclass
class Trial:
    """Hidden states on their way through the model.

    Attributes:
        name: of their caches.
        stream: in front of the next block.
        taps: behind the blocks whose outputs others than the next block look at; of the last block too.
        arguments: how the blocks of the present segment are called.
    """

    name: str
    stream: HiddenStates | None = None
    taps: dict[int, HiddenStates] = field(default_factory=dict)
    arguments: dict[int, Arguments] = field(default_factory=dict)

    def enter(self, model: BlockwiseModel, index: int) -> None:
        """Go to the front of a segment."""
        self.stream = model.enter(index, self.taps, name=self.name)
        self.arguments = dict(model.arguments)

    def advance(self, model: BlockwiseModel, index: int) -> None:
        """Go behind a block, which is onloaded."""
        front, self.stream = self.stream, self._behind(model, index, self.name, self.arguments)
        if front is not None and front not in self.taps.values():
            front.delete()

    def branch(self, model: BlockwiseModel, index: int, name: str) -> Trial:
        """Return another trial, from in front of a block to behind it."""
        arguments = forked(self.arguments, name)
        other = Trial(name, None, dict(self.taps), arguments)
        other.stream = self._behind(model, index, name, arguments, other.taps)
        return other

    def _behind(
        self,
        model: BlockwiseModel,
        index: int,
        name: str,
        arguments: dict[int, Arguments],
        taps: dict[int, HiddenStates] | None = None,
    ) -> HiddenStates:
        assert self.stream is not None
        behind = replace(model, arguments=arguments).advance(index, self.stream, name)
        if model.blocks[index].tapped or index == len(model.blocks) - 1:
            (self.taps if taps is None else taps)[index] = behind
        return behind

    def delete(self) -> None:
        """Give back all hidden states."""
        for stream in self.taps.values():
            stream.delete()


def truncated_weight(weight: Tensor, basis: Tensor, dual: Tensor) -> Tensor:
    """Return ``basis dual^T W``, (m, n) in the dtype of the basis, for a basis and a dual of r columns."""
    return basis @ (dual.T @ weight.to(basis.dtype))


@contextmanager
def _truncated(weight: Tensor, basis: Tensor, dual: Tensor) -> Iterator[None]:
    """Change a weight in place, and give it back as it was."""
    before = weight.detach().clone()
    with torch.no_grad():
        weight.copy_(truncated_weight(before, basis.to(weight.device), dual.to(weight.device)))
        try:
            yield
        finally:
            weight.copy_(before)
