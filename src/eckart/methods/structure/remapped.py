"""Two factors, most of whose numbers take 8 bits: the remap of Dobi-SVD (arXiv 2502.02723, section 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from eckart.layers import FactoredLinear, RemappedLinear
from eckart.methods.precision import Bits8
from eckart.methods.structure.base import Matrix, Structure

if TYPE_CHECKING:
    from eckart.methods.structure.fitting.remapped import RemappedFitter


class Remapped(Structure):
    """Factors of r components in ``2 r max(m, n)`` bytes and their scales; every rank costs less than in 16 bits.

    ``min(m, n)`` rows of one factor and columns of the other take 8 bits, the rest of the longer one 16. A linear keeps
    almost all of its rank at the bytes of a dense one, where two factors of 16 bits keep half of it.

    Attributes:
        feedback: whether what rounding loses is made up for: within a factor as in GPTQ, and what rounding ``first``
            loses by ``second``, which is solved for again. Not published for the remap.
    """

    name: Literal["remapped"] = "remapped"
    layer: ClassVar[type[FactoredLinear]] = RemappedLinear
    own_precision: ClassVar[bool] = True

    feedback: bool = True

    def matrices(self, out_features: int, in_features: int, rank: int) -> list[Matrix]:
        """Return both factors' parts of 8 bits, and what takes 16."""
        eight = [Matrix(*matrix[:2], Bits8()) for matrix in super().matrices(out_features, in_features, rank)]
        rest = RemappedLinear.rest_shape(out_features, in_features, rank)
        return eight if rest is None else [*eight, Matrix(rest.out_features, rest.in_features)]

    def highest_rank(self, out_features: int, in_features: int) -> int:
        """Return ``min(m, n)``."""
        return min(out_features, in_features)

    @property
    def fitter(self) -> RemappedFitter:
        """See :attr:`Structure.fitter`."""
        # Imported when a model is compressed: who loads one needs no solver.
        from eckart.methods.structure.fitting.remapped import RemappedFitter

        return RemappedFitter(self)
