"""Measures a model with one linear truncated at a time, for all linears and several ranks, in one walk."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from eckart.blocks.argument_table import Arguments, forked
from eckart.blocks.block import Block, LinearRef
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.passes import HiddenStates
from eckart.layers import weight_matrix
from eckart.methods.sensitivity.measure import Progress

Ranks = Mapping[str, int | None]


@dataclass(frozen=True)
class Divergences:
    """How far predictions are from those of the original model, in nats a prediction; infinite where not finite.

    Attributes:
        base: with the linears truncated that are from the start.
        trials: with the rank of one linear changed, by its path and that rank.
    """

    base: float
    trials: dict[str, dict[int | None, float]]


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
    found: dict[str, dict[int, float]] = {}
    with _carried(original, solutions, ranks, {}, progress) as carried:
        losses = original.mean_losses([trial.taps for trial in carried.trials.values()])
        for (path, rank), loss in zip(carried.trials, losses, strict=True):
            assert rank is not None
            found.setdefault(path, {})[rank] = loss if loss == loss else float("inf")
    return found


def truncated_loss(original: BlockwiseModel, solutions: Mapping[str, tuple[Tensor, Tensor]], ranks: Ranks) -> float:
    """Return the mean next-token loss, in nats, with all linears truncated to their ranks; infinite if not finite.

    Args:
        original: as for :func:`trial_losses`, like ``solutions``.
        solutions: of each linear.
        ranks: of each linear, by path; None for one that stays as it is.
    """
    with _carried(original, solutions, {}, ranks, lambda done, total: None, dense=False) as carried:
        (loss,) = original.mean_losses([carried.base.taps])
    return loss if math.isfinite(loss) else math.inf


def trial_divergences(
    original: BlockwiseModel,
    solutions: Mapping[str, tuple[Tensor, Tensor]],
    ranks: Mapping[str, Sequence[int | None]],
    progress: Progress,
    base: Ranks | None = None,
    *,
    temperature: float = 1.0,
    first: int = 0,
) -> Divergences:
    """Return the mean divergence ``KL(original || truncated)`` of predictions by path and rank.

    Args:
        original: as for :func:`trial_losses`, like ``solutions``, ``ranks`` and ``progress``; None among the ranks
            stands for a linear as it was.
        solutions: of each linear.
        ranks: to try.
        progress: is called.
        base: ranks of the linears that are truncated in all trials, by path, but for the one that is tried.
        temperature: by which the logits of both are divided.
        first: place in a sequence from which predictions count, if the sequence is longer.
    """
    found: dict[str, dict[int | None, float]] = {}
    with _carried(original, solutions, ranks, base or {}, progress) as carried:
        ends = [carried.base.taps, *(trial.taps for trial in carried.trials.values())]
        known = original.mean_divergences(carried.reference.taps, ends, temperature=temperature, first=first)
        whole, *others = [max(loss, 0.0) if math.isfinite(loss) else math.inf for loss in known]
        for (path, rank), loss in zip(carried.trials, others, strict=True):
            found.setdefault(path, {})[rank] = loss
    return Divergences(whole, found)


@dataclass
class _Carried:
    """What was carried to the end of the model: without a truncation, with those of the base, and of each trial."""

    reference: Trial
    base: Trial
    trials: dict[tuple[str, int | None], Trial]


@contextmanager
def _carried(
    original: BlockwiseModel,
    solutions: Mapping[str, tuple[Tensor, Tensor]],
    ranks: Mapping[str, Sequence[int | None]],
    base_ranks: Ranks,
    progress: Progress,
    *,
    dense: bool = True,
) -> Iterator[_Carried]:
    """Give what is carried, with the original model if that is wanted and anything is truncated from the start."""
    base = Trial("measured")
    reference = Trial("dense") if dense and any(rank is not None for rank in base_ranks.values()) else base
    trials: dict[tuple[str, int | None], Trial] = {}
    everywhere = [base] if reference is base else [reference, base]
    for index, block in enumerate(original.blocks):
        if block.enters:
            for trial in (*everywhere, *trials.values()):
                trial.enter(original, index)
        with original.onload(index):
            if reference is not base:
                reference.advance(original, index)
            with _Truncated(block, solutions) as truncated:
                for ref in block.linears:
                    truncated.set(ref, base_ranks.get(ref.path))
                for trial in trials.values():
                    trial.advance(original, index)
                for ref in block.linears:
                    for rank in ranks.get(ref.path, ()):
                        truncated.set(ref, rank)
                        trials[ref.path, rank] = base.branch(original, index, f"trial-{ref.path}-{rank}")
                    truncated.set(ref, base_ranks.get(ref.path))
                base.advance(original, index)
        progress(index + 1, len(original.blocks))
    try:
        yield _Carried(reference, base, trials)
    finally:
        for trial in (*everywhere, *trials.values()):
            trial.delete()


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


class _Truncated:
    """Changes weights of a block in place, each to a rank, and gives them back as they were.

    Args:
        block: which is onloaded.
        solutions: basis and dual of each linear, by path.
    """

    def __init__(self, block: Block, solutions: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        self._block, self._solutions = block, solutions
        self._before: dict[LinearRef, Tensor] = {}

    def __enter__(self) -> _Truncated:
        return self

    def set(self, ref: LinearRef, rank: int | None) -> None:
        """Let a linear have a rank; None for its own weight."""
        if rank is None and ref not in self._before:
            return
        weight = weight_matrix(self._block.module.get_submodule(ref.name))
        if ref not in self._before:
            self._before[ref] = weight.detach().clone()
        before = self._before[ref]
        with torch.no_grad():
            if rank is None:
                weight.copy_(self._before.pop(ref))
                return
            basis, dual = (known[:, :rank].to(weight.device) for known in self._solutions[ref.path])
            weight.copy_(truncated_weight(before, basis, dual))

    def __exit__(self, *_: object) -> None:
        for ref in list(self._before):
            self.set(ref, None)
