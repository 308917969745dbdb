"""Many recipes at many sizes, measured the same way."""

from __future__ import annotations

from eckart.sweep.best import best_within, command_for, smallest_within
from eckart.sweep.row import SpeedResult, SweepRow
from eckart.sweep.runner import Sweep, SweepCallback, prepare, run
from eckart.sweep.store import Failure, read_failures, read_rows

__all__ = [
    "Failure",
    "SpeedResult",
    "Sweep",
    "SweepCallback",
    "SweepRow",
    "best_within",
    "command_for",
    "prepare",
    "read_failures",
    "read_rows",
    "run",
    "smallest_within",
]
