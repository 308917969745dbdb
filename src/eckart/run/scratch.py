"""Where a run keeps what it needs between blocks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eckart.blocks.tensor_cache import ScratchSpace
from eckart.compression.estimate import Estimate


@dataclass(frozen=True)
class Scratch:
    """The scratch spaces of a run.

    Attributes:
        streams: of hidden states; what a run that goes on finds there is of the block that it stopped behind.
        student: of what a distillation trains.
        measurements: of what is measured before ranks are known.
    """

    streams: ScratchSpace
    student: ScratchSpace
    measurements: ScratchSpace

    @staticmethod
    def at(
        cost: Estimate, streams: Path | None = None, student: Path | None = None, measurements: Path | None = None
    ) -> Scratch:
        """Return scratch spaces in memory if all fits, else in folders: temporary ones, if none are given."""
        return Scratch(*(ScratchSpace(cost.in_memory, folder) for folder in (streams, student, measurements)))

    def close(self) -> None:
        """Delete temporary folders."""
        for space in (self.streams, self.student, self.measurements):
            space.close()
