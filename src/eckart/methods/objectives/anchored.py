"""Anchored: ``min || W X - W' X' ||^2`` (objective 4 of AA-SVD, arXiv 2604.02119, theorem 3.2)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from eckart.maths.whitening import Whitening
from eckart.methods.objectives.paired import PairedObjective


class Anchored(PairedObjective):
    """Z is X', the input in the partly compressed model, and T is W X, the output in the original one."""

    name: Literal["anchored"] = "anchored"

    def blend(self, start: Tensor, direction: Tensor, whitening: Whitening, rank: int) -> float:
        """Return 1: ``P = W X X'^T + t W``, which is ``W (S + t I) + W (X - X') X'^T``."""
        return 1.0
