"""How a model calls its blocks for each batch of a calibration: what is the same for all batches is kept once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from eckart.blocks.block_arguments import BlockArguments
from eckart.blocks.carried import Carried
from eckart.blocks.tensor_cache import TensorCache

ARGUMENTS = "arguments"  # how the names of what is kept for each batch begin
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
        self._held = 0  # shapes that batches brought
        self._caches: dict[torch.dtype, TensorCache] = {}
        self.given: dict[Carried, TensorCache] = {}  # batch by batch

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
        if known is None and (batch is None or self._held < MOST_SHAPES):
            self._by_shape[shape] = calls
            self._held += batch is not None
        elif batch is not None and (known is None or not _same(known, calls)):
            self._by_batch[batch] = self._store(calls, known)

    def of(
        self, number: int, hidden: Tensor, batch: int | None, given: Callable[[Carried], Tensor] | None = None
    ) -> BlockArguments:
        """Return how block ``number`` of the segment is called for hidden states, which are those of a batch.

        Args:
            number: of the block in the segment.
            hidden: states in front of it.
            batch: number of the batch; None for what stands for all of its shape.
            given: what earlier blocks gave, if it is not what was noted of them.
        """
        kept = None if batch is None else self._by_batch.get(batch)
        if kept is None:
            shape = hidden.shape[:-1] if batch is None else self._shapes[batch]
            call = self._by_shape[shape][number]
        else:
            call = kept[number].with_leaves([self._loaded(leaf) for leaf in kept[number].flat()[0]])
        if given is None and batch is not None:
            return call.bound(lambda carried: self.given[carried][batch].to(self._device))
        return call if given is None else call.bound(given)

    def keep(self, block: int, batch: int, tensors: Sequence[Tensor]) -> None:
        """Take note of what a block gave to later ones of the segment; batches come in order.

        Args:
            block: number of the block in the model.
            batch: number of the batch; the first one begins anew.
            tensors: what it gave.
        """
        for number, tensor in enumerate(tensors):
            carried = Carried(block, number)
            if batch == 0:
                name = f"given-{self._name}-{block:05d}-{number}"
                self.given[carried] = self._cache(name, tensor.dtype)
            self.given[carried].append(tensor)

    def fork(self, name: str) -> ArgumentTable:
        """Return a table with the same arguments that takes note by itself of what blocks give.

        Args:
            name: of its caches.
        """
        other = copy.copy(self)
        other._name, other.given = name, dict(self.given)
        return other

    def delete(self) -> None:
        """Give back memory and files."""
        for cache in self._caches.values():
            cache.delete()
        for cache in self.given.values():
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
            cache = self._caches[tensor.dtype] = self._cache(f"{ARGUMENTS}-{self._name}-{kind}", tensor.dtype)
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
        block: number of the block in the model.
    """

    table: ArgumentTable
    number: int
    block: int

    def of(
        self, hidden: Tensor, batch: int | None = None, given: Callable[[Carried], Tensor] | None = None
    ) -> BlockArguments:
        """Return how the block is called.

        Args:
            hidden: states in front of the block.
            batch: whose they are, where it matters; None for what stands for all batches of a shape.
            given: what earlier blocks gave, if it is not what was noted of them.
        """
        return self.table.of(self.number, hidden, batch, given)

    def keep(self, batch: int, call: BlockArguments, output: Any) -> None:
        """Take note of what the block gave to later ones in a run for a batch.

        Args:
            batch: number of it.
            call: of the block.
            output: all that it returned.
        """
        if call.site.gives:
            self.table.keep(self.block, batch, call.given(output))


def forked(arguments: Mapping[int, Arguments], name: str) -> dict[int, Arguments]:
    """Return the same arguments of blocks, whose tables take note by themselves of what blocks give.

    Args:
        arguments: by block.
        name: of the caches of what is noted.
    """
    forks: dict[int, ArgumentTable] = {}
    for known in arguments.values():
        if id(known.table) not in forks:
            forks[id(known.table)] = known.table.fork(name)
    return {block: replace(known, table=forks[id(known.table)]) for block, known in arguments.items()}


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
