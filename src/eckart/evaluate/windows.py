"""What all measurements on a text have in common: it is one stream of tokens, cut into windows without overlap."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from eckart.errors import EckartError


def windows_of(ids: Tensor, length: int, windows: int | None) -> Iterator[Tensor]:
    """Yield windows, (1, length) int64.

    Args:
        ids: (tokens,) int64, the whole text.
        length: tokens in a window.
        windows: take only the first ones; None takes all.
    """
    for index in range(count_windows(ids, length, windows)):
        yield ids[None, index * length : (index + 1) * length]


def count_windows(ids: Tensor, length: int, windows: int | None) -> int:
    """Return how many windows there are, one or more; arguments as for :func:`windows_of`.

    Raises:
        EckartError: the text is shorter than one.
    """
    available = len(ids) // length
    count = available if windows is None else min(windows, available)
    if count < 1 or length < 2:
        raise EckartError(
            f"The text has {len(ids)} tokens, and one window is {length}. Use a longer text or a shorter --length."
        )
    return count


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean over windows, and its standard error; None if there is only one."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))
