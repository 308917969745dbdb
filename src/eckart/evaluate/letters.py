"""Letters that a model hears wrong: by the fewest changes that make of what it writes what was said."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def letter_errors(logits: Tensor, targets: Tensor, blank: int) -> float:
    """Return how many letters are wrong, missing or too many in the most likely reading of frames.

    Args:
        logits: (frames, letters).
        targets: (length,) int64, what was said.
        blank: the letter that stands for none.
    """
    heard = torch.unique_consecutive(logits.argmax(dim=-1))
    return float(edit_distance(heard[heard != blank].tolist(), targets.tolist()))


def edit_distance(found: Sequence[int], expected: Sequence[int]) -> int:
    """Return the fewest replacements, insertions and deletions that make one sequence of another."""
    before = list(range(len(expected) + 1))
    for row, a in enumerate(found, start=1):
        now = [row]
        for column, b in enumerate(expected, start=1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (a != b)))
        before = now
    return before[-1]
