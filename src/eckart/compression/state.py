"""How far a walk over the blocks has come, and who keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from eckart.blocks.discovery import Block
from eckart.blocks.passes import HiddenStates
from eckart.compression.records import BlockRecord
from eckart.compression.result import LayerRecord
from eckart.methods.distillation.record import DistillationRecord
from eckart.methods.refinement.record import RefinementRecord


@dataclass(frozen=True)
class WalkState:
    """How far a walk has come.

    Attributes:
        finished: blocks that are done.
        original: the stream of the original model in front of the next block; None if nobody looks at it.
        compressed: the same of the compressed model; the same object in front of the first block.
        layers: records of the layers of the finished blocks.
        refinements: records of their refinements.
        recorded: hidden states of the few tokens that errors are recorded on, in the original and in the compressed
            model; None if there are no tokens.
        blocks: those errors, of the finished blocks.
        spectra: of their layers, by path.
        distillation: what it did to the finished model; None before.
    """

    finished: int = 0
    original: HiddenStates | None = None
    compressed: HiddenStates | None = None
    layers: tuple[LayerRecord, ...] = ()
    refinements: tuple[RefinementRecord, ...] = ()
    recorded: HiddenStates | None = None
    blocks: tuple[BlockRecord, ...] = ()
    spectra: Mapping[str, Tensor] = field(default_factory=dict)
    distillation: DistillationRecord | None = None

    @property
    def streams(self) -> list[HiddenStates]:
        """All streams that there are."""
        return [stream for stream in (self.original, self.compressed, self.recorded) if stream is not None]


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
