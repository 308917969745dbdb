"""What a run took: seconds and memory. Two runs of the same differ in this alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Literal

from pydantic import BaseModel, ConfigDict

from eckart.files.field_types import Count


class Timings(BaseModel):
    """Wall-clock seconds of a run, by what they were spent on.

    ``files`` is reading and writing them, ``records`` is what :class:`eckart.compression.drift.BlockDrift` needs.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    allocation: float = 0.0
    statistics: float = 0.0
    preparation: float = 0.0
    factorisation: float = 0.0
    refinement: float = 0.0
    distillation: float = 0.0
    files: float = 0.0
    records: float = 0.0
    total: float = 0.0

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Add the time spent inside to ``phase``."""
        start = perf_counter()
        try:
            yield
        finally:
            setattr(self, phase, getattr(self, phase) + perf_counter() - start)


class Memory(BaseModel):
    """Largest memory of the process, in bytes: as it was, and as was expected; None where there is no accelerator."""

    model_config = ConfigDict(frozen=True)

    host: Count
    expected_host: Count
    device: Count | None = None
    expected_device: Count | None = None


class Costs(BaseModel):
    """What a run took.

    Attributes:
        version: of this form.
        timings: without the last files.
        memory: at most; None until the run is over.
        resumed_behind: blocks that an earlier run had finished, whose times are not among the timings.
    """

    version: Literal[1] = 1
    timings: Timings
    memory: Memory | None
    resumed_behind: Count = 0
