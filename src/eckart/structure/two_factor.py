"""Two factors: the layout of all published methods."""

from __future__ import annotations

from typing import ClassVar, Literal

from eckart.layers import FactoredLinear, LowRankLinear
from eckart.structure.base import BYTES_PER_NUMBER, Structure


class TwoFactor(Structure):
    """Two factors, (m, r) and (r, n): r (m + n) numbers."""

    name: Literal["two-factor"] = "two-factor"
    layer: ClassVar[type[FactoredLinear]] = LowRankLinear

    def numbers(self, out_features: int, in_features: int, rank: int | None) -> int:
        """Return ``r (m + n)``."""
        return out_features * in_features if rank is None else rank * (out_features + in_features)

    def bytes(self, out_features: int, in_features: int, rank: int | None) -> int:
        """Return two bytes a number."""
        return BYTES_PER_NUMBER * self.numbers(out_features, in_features, rank)

    def highest_rank(self, out_features: int, in_features: int) -> int:
        """Return ``min(m, n)``."""
        return min(out_features, in_features)
