"""Two factors: the structure of all published methods."""

from __future__ import annotations

from typing import ClassVar, Literal

from eckart.layers import FactoredLinear, LowRankLinear
from eckart.structure.base import Structure


class TwoFactor(Structure):
    """Two factors, (m, r) and (r, n): r (m + n) numbers."""

    name: Literal["two-factor"] = "two-factor"
    layer: ClassVar[type[FactoredLinear]] = LowRankLinear

    def highest_rank(self, out_features: int, in_features: int) -> int:
        """Return ``min(m, n)``."""
        return min(out_features, in_features)
