"""Shift-aware: ``min || W X' - W' X' ||^2`` (objective 3 of AA-SVD, arXiv 2604.02119; the update of Dobi-SVD)."""

from __future__ import annotations

from typing import ClassVar, Literal

from eckart.methods.objectives.base import DataAwareObjective, InputSource


class ShiftAware(DataAwareObjective):
    """Z is X', the input in the partly compressed model, and T is W X': the original weight on the shifted input."""

    name: Literal["shift-aware"] = "shift-aware"
    input_source: ClassVar[InputSource] = InputSource.COMPRESSED
