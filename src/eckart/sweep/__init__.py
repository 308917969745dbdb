"""Many recipes at many sizes, measured the same way."""

from __future__ import annotations

from eckart.sweep.best import best_within as best_within
from eckart.sweep.best import command_for as command_for
from eckart.sweep.best import smallest_within as smallest_within
from eckart.sweep.row import SpeedResult as SpeedResult
from eckart.sweep.row import SweepRow as SweepRow
from eckart.sweep.runner import Sweep as Sweep
from eckart.sweep.runner import SweepCallback as SweepCallback
from eckart.sweep.runner import prepare as prepare
from eckart.sweep.runner import run as run
from eckart.sweep.store import Failure as Failure
from eckart.sweep.store import read_failures as read_failures
from eckart.sweep.store import read_rows as read_rows
