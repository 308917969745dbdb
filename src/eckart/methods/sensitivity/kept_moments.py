"""Moments of the inputs of a whole model, which can be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from eckart.blocks.tensor_cache import TensorCache
from eckart.maths.moments import Moments


class KeptMoments(Mapping[str, Moments]):
    """Moments of inputs in the original model, by path.

    Args:
        cache: holds their sums, in float32: they are sums of float32 products.
    """

    def __init__(self, cache: TensorCache) -> None:
        self._cache = cache
        self._places: dict[str, int] = {}
        self._counts: dict[str, list[tuple[float, float]]] = {}

    def add(self, path: str, moments: Moments) -> None:
        """Add moments of one model's inputs, those of each run included."""
        assert moments.shift is None
        everywhere = [moments, *moments.runs]
        self._places[path] = len(self._cache)
        self._counts[path] = [(known.tokens, known.floor) for known in everywhere]
        for known in everywhere:
            assert known.sum is not None
            for total in (known.second_moment, known.absolute, known.sum):
                self._cache.append(total)

    def __getitem__(self, path: str) -> Moments:
        place, found = self._places[path], []
        for tokens, floor in self._counts[path]:
            second, absolute, total = (known.to(torch.float64) for known in self._cache[place : place + 3])
            found.append(Moments(second, None, absolute, tokens, total, floor=floor))
            place += 3
        return replace(found[0], runs=found[1:])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
