"""How a model calls its blocks for each batch of a calibration: what is the same for all batches is kept once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eckart.blocks.block_arguments import BlockArguments
from eckart.blocks.tensor_cache import TensorCache

MOST_SHAPES = 8  # of hidden states, for which arguments are held where blocks are run

MakeCache = Callable[[str, torch.dtype], TensorCache]


@dataclass(frozen=True)
class _Stored:
    """The place of a tensor that is kept like hidden states are."""

    dtype: torch.dtype
    number: int


class ArgumentTable:
    """What the blocks of one segment are handed beside the hidden states.

    Tensors that are the same for all batches of one shape stay on the device. Others are kept for each batch.

    Args:
        cache: makes an empty cache from a name and a dtype.
        name: of the caches, if there are several tables at a time.
        device: where blocks are run.
    """

    def __init__(self, cache: MakeCache, name: str, device: torch.device) -> None:
        self._cache, self._name, self._device = cache, name, device
        self._by_shape: dict[torch.Size, Sequence[BlockArguments]] = {}
        self._by_batch: dict[int, Sequence[BlockArguments]] = {}
        self._shapes: dict[int, torch.Size] = {}  # in front of the segment, by batch: blocks may change it
        self._caches: dict[torch.dtype, TensorCache] = {}

    @property
    def varies(self) -> bool:
        """Whether some batch is handed something else than another one of its shape."""
        return bool(self._by_batch)

    def add(self, batch: int | None, hidden: Tensor, calls: Sequence[BlockArguments]) -> None:
        """Take note of a batch.

        Args:
            batch: its number; None for one that stands for all of its shape.
            hidden: states in front of the segment.
            calls: of each block of it.
        """
        shape = hidden.shape[:-1]
        if batch is not None:
            self._shapes[batch] = shape
        known = self._by_shape.get(shape)
        if known is None and (batch is None or len(self._by_shape) < MOST_SHAPES):
            self._by_shape[shape] = calls
        elif batch is not None and (known is None or not _same(known, calls)):
            self._by_batch[batch] = self._store(calls, known)

    def of(self, number: int, hidden: Tensor, batch: int | None) -> BlockArguments:
        """Return how block ``number`` of the segment is called for hidden states, which are those of a batch."""
        kept = None if batch is None else self._by_batch.get(batch)
        if kept is None:
            shape = hidden.shape[:-1] if batch is None else self._shapes[batch]
            return self._by_shape[shape][number]
        call = kept[number]
        return call.with_leaves([self._loaded(leaf) for leaf in call.flat()[0]])

    def delete(self) -> None:
        """Give back memory and files."""
        for cache in self._caches.values():
            cache.delete()
        self._by_batch.clear()
        self._by_shape.clear()

    def _store(self, calls: Sequence[BlockArguments], known: Sequence[BlockArguments] | None) -> list[BlockArguments]:
        places: dict[int, _Stored | Tensor] = {}  # by the tensor: many blocks are handed the same one

        def stored(leaf: Any, same: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            if id(leaf) not in places:
                is_known = isinstance(same, Tensor) and _equal(leaf, same)
                places[id(leaf)] = same if is_known else self._append(leaf)
            return places[id(leaf)]

        found = []
        for number, call in enumerate(calls):
            leaves, form = call.flat()
            others: Sequence[Any] = [None] * len(leaves)
            if known is not None:
                theirs, other_form = known[number].flat()
                others = theirs if other_form == form else others
            found.append(call.with_leaves([stored(a, b) for a, b in zip(leaves, others, strict=True)]))
        return found

    def _append(self, tensor: Tensor) -> _Stored:
        cache = self._caches.get(tensor.dtype)
        if cache is None:
            kind = str(tensor.dtype).removeprefix("torch.")
            cache = self._caches[tensor.dtype] = self._cache(f"arguments-{self._name}-{kind}", tensor.dtype)
        cache.append(tensor)
        return _Stored(tensor.dtype, len(cache) - 1)

    def _loaded(self, leaf: Any) -> Any:
        return self._caches[leaf.dtype][leaf.number].to(self._device) if isinstance(leaf, _Stored) else leaf


@dataclass(frozen=True)
class Arguments:
    """How the model calls one block: one of a table's.

    Attributes:
        table: of its segment.
        number: of the block in it.
    """

    table: ArgumentTable
    number: int

    def of(self, hidden: Tensor, batch: int | None = None) -> BlockArguments:
        """Return how the block is called.

        Args:
            hidden: states in front of the block.
            batch: whose they are, where it matters; None for what stands for all batches of a shape.
        """
        return self.table.of(self.number, hidden, batch)


def _same(ours: Sequence[BlockArguments], theirs: Sequence[BlockArguments]) -> bool:
    known: dict[tuple[int, int], bool] = {}

    def equal(one: Any, other: Any) -> bool:
        if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
            return isinstance(one, Tensor) == isinstance(other, Tensor)
        key = id(one), id(other)
        if key not in known:
            known[key] = _equal(one, other)
        return known[key]

    for call, other in zip(ours, theirs, strict=True):
        (leaves, form), (others, other_form) = call.flat(), other.flat()
        if form != other_form or not all(map(equal, leaves, others)):
            return False
    return True


def _equal(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and one.dtype == other.dtype and bool(torch.equal(one, other)))
