"""Two factors: the structure of all published methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from eckart.layers import FactoredLinear, LowRankLinear
from eckart.methods.structure.base import Structure

if TYPE_CHECKING:
    from eckart.methods.structure.fitting.two_factor import TwoFactorFitter


class TwoFactor(Structure):
    """Two factors, (m, r) and (r, n): r (m + n) numbers.

    Attributes:
        split: what of each component is divided evenly between the factors: their ``norms``, so that both are of one
            size, or its ``singular-values``, the square root of a mean over tokens, as published (AA-SVD, arXiv
            2604.02119, and others). The product is the same, but training that follows takes another path.
    """

    name: Literal["two-factor"] = "two-factor"
    layer: ClassVar[type[FactoredLinear]] = LowRankLinear
    rounds_to_nearest: ClassVar[bool] = True
    nests: ClassVar[bool] = True

    split: Literal["norms", "singular-values"] = "norms"

    def highest_rank(self, out_features: int, in_features: int) -> int:
        """Return ``min(m, n)``."""
        return min(out_features, in_features)

    @property
    def fitter(self) -> TwoFactorFitter:
        """See :attr:`Structure.fitter`."""
        # Imported when a model is compressed: who loads one needs no solver.
        from eckart.methods.structure.fitting.two_factor import TwoFactorFitter

        return TwoFactorFitter(self)
