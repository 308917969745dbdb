"""Sparse combinations of atoms (ROCKET, arXiv 2602.11008; COMPOT, arXiv 2602.15200)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import nn

from eckart.layers import DictionaryLinear, FactoredLinear, Mask, Pattern, weight_matrix
from eckart.maths.sparsity import numbers_per_row
from eckart.methods.precision import Precision, SemiStructured
from eckart.methods.precision.masked import Masked
from eckart.methods.structure.base import Matrix, Structure

if TYPE_CHECKING:
    from eckart.methods.structure.fitting.dictionary import DictionaryFitter


class Dictionary(Structure):
    """``W' = S V``: k atoms V (k, n), and S (m, k), of each row of which about one in ``sparsity`` numbers is there.

    The rank of a linear is its number of atoms k. It takes ``16 (k n + s m) + k m`` bits, s numbers a row and a bit a
    place: for the same bytes there are more atoms than two factors have components. ROCKET counts no places, and so has
    some percent more atoms. Zeros are multiplied like other numbers: a layer runs as two factors of rank k do.

    Attributes:
        method: how S is found. ``rocket``: coefficients of the singular vectors, of which those stay that are largest,
            in the mean of their weight in white space and in plain space; atoms are then fitted by a ridge regression.
            ``compot``: an orthonormal dictionary in white space and the largest coefficients for it, in turn, each the
            best for the other; the dictionary is the atoms.
        sparsity: numbers of S for one that is there, 2 as in both papers; 1 is plain low rank, with a mask. The
            allocation ``knapsack`` chooses another one for each layer.
        pattern: where numbers may be: in ``any`` place, as published, or ``2-of-4`` neighbours, for a sparsity of 2
            alone. That takes the same bytes, and loses more; there are kernels for it, though none is used here.
            Neighbours are then atoms of different size, so that no group has large ones alone (our order).
        spare: share of the numbers that go to the largest of all rows (ROCKET); not with 2 of 4.
        plain: exponent of an atom's size in plain space (ROCKET).
        rounds: of COMPOT.
        refits: how often atoms and then numbers of S in their places are fitted again, each by least squares, so that
            the loss only falls; 0 as published. Not published. The last numbers of S are fitted to atoms as stored.
    """

    name: Literal["dictionary"] = "dictionary"
    layer: ClassVar[type[FactoredLinear]] = DictionaryLinear
    fits_itself: ClassVar[bool] = True
    own_precision: ClassVar[bool] = True

    method: Literal["rocket", "compot"] = "compot"
    sparsity: float = Field(2.0, ge=1.0)
    pattern: Literal["any", "2-of-4"] = "any"
    spare: float = Field(0.005, ge=0.0, le=1.0)
    plain: float = Field(0.5, ge=0.0, le=1.0)
    rounds: int = Field(20, ge=0)
    refits: int = Field(1, ge=0)

    @model_validator(mode="after")
    def _two_of_four_is_half(self) -> Self:
        if self.pattern == "2-of-4" and self.sparsity != 2:
            raise ValueError(
                f"the pattern 2-of-4 keeps one number in 2, found sparsity {self.sparsity:g}. Use pattern any, or "
                "sparsity 2"
            )
        return self

    def matrices(self, out_features: int, in_features: int, rank: int) -> list[Matrix]:
        """Return the atoms and what combines them."""
        first, second = super().matrices(out_features, in_features, rank)
        sparse = SemiStructured() if self.pattern == "2-of-4" else Masked(sparsity=self.sparsity)
        return [first, second._replace(precision=sparse)]

    def highest_rank(self, out_features: int, in_features: int) -> int:
        """Return ``min(m, n)``."""
        return min(out_features, in_features)

    @property
    def takes_sparsity(self) -> bool:
        """See :attr:`Structure.takes_sparsity`; two of four neighbours are always half."""
        return self.pattern == "any"

    def with_sparsity(self, sparsity: float) -> Self:
        """See :meth:`Structure.with_sparsity`."""
        if not self.takes_sparsity:
            raise ValueError("layers of the pattern 2-of-4 have no sparsity of their own")
        return self.model_copy(update={"sparsity": sparsity})

    @property
    def fitter(self) -> DictionaryFitter:
        """See :attr:`Structure.fitter`."""
        # Imported when a model is compressed: who loads one needs no solver.
        from eckart.methods.structure.fitting.dictionary import DictionaryFitter

        return DictionaryFitter(self)

    def empty_like(
        self, linear: nn.Module, rank: int, precision: Precision, *, affine: bool = False
    ) -> DictionaryLinear:
        """See :meth:`Structure.empty_like`."""
        pattern: Pattern | Mask = Pattern.TWO_OF_FOUR
        if self.pattern == "any":
            pattern = Mask(len(weight_matrix(linear)) * numbers_per_row(rank, self.sparsity))
        return DictionaryLinear.empty_like(linear, rank, affine=affine, pattern=pattern)
