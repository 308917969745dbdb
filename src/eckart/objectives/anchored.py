"""Anchored: ``min || W X - W' X' ||^2`` (objective 4 of AA-SVD, arXiv 2604.02119, theorem 3.2)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from eckart.lowrank import Whitening
from eckart.moments import Moments
from eckart.objectives.base import DataAwareObjective, Streams


class Anchored(DataAwareObjective):
    """Z is X', the input in the partly compressed model, and T is W X, the output in the original one."""

    name: Literal["anchored"] = "anchored"
    streams: ClassVar[Streams] = Streams.BOTH

    def cross_moment(self, weight: Tensor, moments: Moments, whitening: Whitening, rank: int) -> Tensor:
        """Return ``W X X'^T + t W``, which is ``W (S + t I) + W (X - X') X'^T``."""
        return blended_cross_moment(weight, moments, whitening, blend=1.0)


def blended_cross_moment(weight: Tensor, moments: Moments, whitening: Whitening, blend: float) -> Tensor:
    """Return ``W (S + blend (X - X') X'^T)``, (m, n), for the S that ``whitening`` is the root of."""
    assert moments.shift is not None
    return (weight @ whitening.root) @ whitening.root.T + blend * (weight @ moments.shift)
