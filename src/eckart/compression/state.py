"""How far a walk over the blocks has come, and who keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from eckart.blocks.block import Block
from eckart.blocks.passes import HiddenStates
from eckart.blocks.tensor_cache import TensorCache
from eckart.compression.drift import FollowedTokens
from eckart.compression.records import Records


@dataclass(frozen=True)
class WalkState:
    """How far a walk has come.

    Attributes:
        finished: blocks that are done.
        original: the original model's hidden states in front of the next block; None if nobody looks at them.
        compressed: the same of the compressed model; the same object in front of the first block.
        followed: hidden states of the few tokens that errors are recorded on; None if there are no tokens.
        taps: hidden states behind finished blocks that the model's own code looks at later, by names that tell of what.
        records: of the finished blocks.
    """

    finished: int = 0
    original: HiddenStates | None = None
    compressed: HiddenStates | None = None
    followed: FollowedTokens | None = None
    taps: Mapping[str, TensorCache] = field(default_factory=dict)
    records: Records = field(default_factory=Records)

    @property
    def streams(self) -> list[HiddenStates]:
        """All hidden states that there are."""
        followed = None if self.followed is None else self.followed.cache
        return [
            stream for stream in (self.original, self.compressed, followed, *self.taps.values()) if stream is not None
        ]


class RunCheckpoint(Protocol):
    """Keeps what is finished."""

    def resume(self) -> WalkState | None:
        """Return where an earlier walk stopped; None if there was none."""
        ...

    def save(self, state: WalkState, block: Block, tensors: dict[str, Tensor]) -> None:
        """Save a finished block.

        Args:
            position: behind it.
            block: that was finished.
            tensors: of the block by their names in it, as they are to be saved.
        """
        ...

    def load(self, number: int) -> dict[str, Tensor]:
        """Return the tensors of a finished block as they were kept first, if it was said that they are wanted."""
        ...

    def replace(self, number: int, block: Block, tensors: dict[str, Tensor]) -> None:
        """Save other tensors of a finished block than those that were kept first."""
        ...

    def finish(self, state: WalkState) -> None:
        """Take note that all blocks are distilled."""
        ...
