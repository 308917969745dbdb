"""Tensors by name that can be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from eckart.blocks.tensor_cache import TensorCache


class CachedTensors(Mapping[str, Tensor]):
    """Tensors by name that lie in a tensor cache."""

    def __init__(self, cache: TensorCache) -> None:
        self._spool, self._places = cache, dict[str, int]()

    def add(self, name: str, tensor: Tensor) -> None:
        """Add a tensor."""
        self._places[name] = len(self._spool)
        self._spool.append(tensor)

    def add_name(self, name: str, other: str) -> None:
        """Let ``name`` stand for the tensor that is there as ``other``."""
        self._places[name] = self._places[other]

    def __getitem__(self, name: str) -> Tensor:
        return self._spool[self._places[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class CachedPairs(Mapping[str, tuple[Tensor, Tensor]]):
    """Pairs of tensors by name that lie in two caches; where both are the same tensor, in one."""

    def __init__(self, first: TensorCache, second: TensorCache) -> None:
        self._first, self._second = CachedTensors(first), CachedTensors(second)

    def add(self, name: str, first: Tensor, second: Tensor) -> None:
        """Add a pair."""
        self._first.add(name, first)
        if second is not first:
            self._second.add(name, second)

    def add_name(self, name: str, other: str) -> None:
        """Let ``name`` stand for the pair that is there as ``other``."""
        self._first.add_name(name, other)
        if other in self._second:
            self._second.add_name(name, other)

    def __getitem__(self, name: str) -> tuple[Tensor, Tensor]:
        first = self._first[name]
        return first, self._second.get(name, first)

    def __iter__(self) -> Iterator[str]:
        return iter(self._first)

    def __len__(self) -> int:
        return len(self._first)
