"""What blocks hand to later blocks beside hidden states: tensors that they return, or put into a mapping they share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

Place = int | str
"""Number of an argument, or its name."""


@dataclass(frozen=True)
class Carried:
    """Stands in the arguments of a block for a tensor that an earlier block of the segment gave.

    Attributes:
        block: number of that block.
        number: of the tensor, of those that the block gives.
    """

    block: int
    number: int


@dataclass(frozen=True)
class Given:
    """Where a block gives a tensor that later blocks are handed.

    Attributes:
        leaf: of what it returns; of a value, where ``place`` is said.
        place: of a mapping among its arguments that it writes into.
        key: in the mapping.
    """

    leaf: int
    place: Place | None = None
    key: Any = None

    def of(self, output: Any, handed: Mapping[Place, Any]) -> Tensor:
        """Return the tensor, from what a block returned and from the mappings that it was handed."""
        tree = output if self.place is None else handed[self.place][self.key]
        found = tree_leaves(tree)[self.leaf]
        assert isinstance(found, Tensor)
        return found


@dataclass(frozen=True)
class SharedMapping:
    """A mapping that blocks share, as one of them is handed it.

    Attributes:
        empty: one of its kind without contents.
        contents: with a :class:`Carried` in the place of each tensor.
    """

    empty: MutableMapping[Any, Any]
    contents: Mapping[Any, Any]

    def filled(self, tensor: Callable[[Carried], Tensor]) -> MutableMapping[Any, Any]:
        """Return a new mapping with tensors in it."""
        made = copy.copy(self.empty)
        for key, value in self.contents.items():
            made[key] = tree_map(lambda leaf: tensor(leaf) if isinstance(leaf, Carried) else leaf, value)
        return made


def is_shared(value: Any) -> bool:
    """Return whether an argument is a mapping that blocks may write into."""
    return isinstance(value, MutableMapping)


def emptied(mapping: MutableMapping[Any, Any]) -> MutableMapping[Any, Any]:
    """Return an empty mapping of the same kind."""
    made = copy.copy(mapping)
    made.clear()
    return made
