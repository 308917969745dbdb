"""A weight of few bits or numbers beside two factors: what it lost, in low rank (EoRA, arXiv 2410.21271)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field
from torch import nn

from eckart.layers import FactoredLinear, HybridLinear, Pattern
from eckart.methods.choice import expand_name
from eckart.methods.precision import AnyBase, Bits4, Precision, SemiStructured
from eckart.methods.structure.base import Matrix, Structure

if TYPE_CHECKING:
    from eckart.methods.structure.fitting.hybrid import HybridFitter


class Hybrid(Structure):
    """``W' = Q + second @ first``: Q (m, n) quantised or pruned, and factors in the recipe's own precision.

    The rank says how much is spent on what Q lacks; the least that a linear can take is Q and rank 1.

    Attributes:
        base: how Q is stored: in 2 to 8 bits, whose ``feedback`` is GPTQ's, or with 2 of 4 numbers.
        alternations: how often Q and then the factors are found again for what the other leaves, the first time from
            the best factors of the weight on; 0 is EoRA: Q is the weight rounded, and the factors for what that lost.
    """

    name: Literal["hybrid"] = "hybrid"
    layer: ClassVar[type[FactoredLinear]] = HybridLinear
    adds_to_base: ClassVar[bool] = True
    fits_itself: ClassVar[bool] = True

    base: Annotated[AnyBase, Discriminator("name"), BeforeValidator(expand_name)] = Field(
        default_factory=lambda: Bits4(group=128)
    )
    alternations: int = Field(2, ge=0)

    def matrices(self, out_features: int, in_features: int, rank: int) -> list[Matrix]:
        """Return both factors and the base."""
        factors = super().matrices(out_features, in_features, rank)
        return [*factors, Matrix(out_features, in_features, self.base)]

    def highest_rank(self, out_features: int, in_features: int) -> int:
        """Return ``min(m, n)``."""
        return min(out_features, in_features)

    @property
    def fitter(self) -> HybridFitter:
        """See :attr:`Structure.fitter`."""
        # Imported when a model is compressed: who loads one needs no solver.
        from eckart.methods.structure.fitting.hybrid import HybridFitter

        return HybridFitter(self)

    def empty_like(self, linear: nn.Module, rank: int, precision: Precision, *, affine: bool = False) -> HybridLinear:
        """See :meth:`Structure.empty_like`."""
        base = Pattern.TWO_OF_FOUR if isinstance(self.base, SemiStructured) else self.base.scheme
        return HybridLinear.empty_like(linear, rank, precision.scheme, affine=affine, base=base)
