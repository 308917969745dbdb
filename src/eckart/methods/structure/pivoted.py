"""Pivots: the same matrix in fewer numbers (PIFA, arXiv 2501.19090)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from eckart.layers import FactoredLinear, PivotedLinear
from eckart.layers.pivoted import index_dtype
from eckart.methods.structure.base import Structure

if TYPE_CHECKING:
    from eckart.methods.structure.fitting.pivoted import PivotedFitter


class Pivoted(Structure):
    """r rows of the weight, (r, n), and the others as combinations of them, (m - r, r): r (m + n - r) numbers.

    That is less than the dense weight's m n for every r below both m and n: no rank is too large to save something,
    but for the index of the rows, which is counted too. What the pivots lose in 16 bits comes back in every row that is
    combined of them, so that the combinations are found for the rounded pivots, and rounded with feedback.

    How a component is split between two factors B and A beforehand makes no difference, nor to training that follows.
    For B D and D^-1 A with D diagonal and positive, the orthonormal basis that pivots are chosen in is the same, since
    ``B = Q T`` gives ``B D = Q (T D)``; so are the pivots' rows ``B_p D D^-1 A`` and the combinations
    ``B_o D (B_p D)^-1``.
    """

    name: Literal["pivoted"] = "pivoted"
    layer: ClassVar[type[FactoredLinear]] = PivotedLinear
    amplifies: ClassVar[bool] = True
    reorders_units: ClassVar[bool] = True

    def index_bytes(self, out_features: int) -> int:
        """Return the bytes of the index of the rows."""
        return out_features * index_dtype(out_features).itemsize

    def highest_rank(self, out_features: int, in_features: int) -> int:
        """Return the largest rank that leaves a row to combine."""
        return min(out_features - 1, in_features)

    @property
    def fitter(self) -> PivotedFitter:
        """See :attr:`Structure.fitter`."""
        # Imported when a model is compressed: who loads one needs no solver.
        from eckart.methods.structure.fitting.pivoted import PivotedFitter

        return PivotedFitter(self)
