"""Measures the model's loss with one linear truncated at a time, for all linears and several ranks, in one walk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.passes import HiddenStates
from eckart.blocks.tensor_cache import TensorCache
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
    stream = original.enter()
    trials: dict[tuple[str, int], HiddenStates] = {}
    for index, block in enumerate(original.blocks):
        with original.onload(index):
            behind = partial(_behind, original, index)
            trials = {key: behind(front, f"trial-{'-'.join(map(str, key))}") for key, front in trials.items()}
            for ref in block.linears:
                weight = weight_matrix(block.module.get_submodule(ref.name))
                basis, dual = solutions[ref.path]
                for rank in ranks[ref.path]:
                    with _truncated(weight, basis[:, :rank], dual[:, :rank]):
                        trials[ref.path, rank] = behind(stream, f"trial-{ref.path}-{rank}", keep=True)
            stream = behind(stream, "measured")
        progress(index + 1, len(original.blocks))
    losses = original.mean_losses(list(trials.values()))
    found: dict[str, dict[int, float]] = {}
    for (path, rank), loss in zip(trials, losses, strict=True):
        trials[path, rank].delete()
        found.setdefault(path, {})[rank] = loss if loss == loss else float("inf")
    return found


def truncated_weight(weight: Tensor, basis: Tensor, dual: Tensor) -> Tensor:
    """Return ``basis dual^T W``, (m, n) in the dtype of the basis, for a basis and a dual of r columns."""
    return basis @ (dual.T @ weight.to(basis.dtype))


def _behind(original: BlockwiseModel, index: int, front: HiddenStates, name: str, *, keep: bool = False) -> TensorCache:
    result = original.advance(index, front, name)
    if not keep:
        front.delete()
    return result


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
