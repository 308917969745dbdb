"""What a run is expected to take, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """What a run is expected to take.

    Attributes:
        host_bytes: peak resident memory of the process.
        device_bytes: peak memory on the accelerator; None without one.
        allocation_seconds: for the measurement that the ranks follow from.
        block_seconds: for one block.
        seconds: for all blocks, without the allocation and the distillation.
        distillation_seconds: for the distillation.
        in_memory: whether the streams fit into memory; else they go to files.
        recompute: whether a training must compute activations twice to fit.
    """

    host_bytes: int
    device_bytes: int | None
    allocation_seconds: float
    block_seconds: float
    seconds: float
    distillation_seconds: float
    in_memory: bool
    recompute: bool
