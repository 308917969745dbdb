"""Deals out the equations of linears to several processes."""

from __future__ import annotations

from collections.abc import Sequence

from eckart import processes
from eckart.blocks.block import LinearRef


def own_of(refs: Sequence[LinearRef]) -> list[int]:
    """Return which process solves the equation of each linear: the longest first, to whom has least to do."""
    loads = [0] * processes.size()
    owners: dict[int, int] = {}
    for number in sorted(range(len(refs)), key=lambda n: -_operations(refs[n])):  # of equal ones the first one first
        owners[number] = loads.index(min(loads))
        loads[owners[number]] += _operations(refs[number])
    return [owners[number] for number in range(len(refs))]


def _operations(ref: LinearRef) -> int:
    """Return about how many operations a root of the inputs' moment and a decomposition take."""
    return ref.in_features**3 + ref.size * min(ref.shape)
