"""Some input columns whole, the others of low rank (CPSVD, arXiv 2510.19385, now Duo-SVD)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self, cast

from pydantic import Field
from torch import nn

from eckart.layers import FactoredLinear, KeptColumnsLinear
from eckart.methods.precision import Precision
from eckart.methods.structure.base import Matrix, Structure

if TYPE_CHECKING:
    from eckart.methods.structure.fitting.kept_columns import KeptColumnsFitter

INDEX_BYTES = KeptColumnsLinear(2, 1, 1, columns=1, device="meta").columns.dtype.itemsize


class KeptColumns(Structure):
    """``W'``: c columns of the weight (m, c), and two factors for the others: ``r (n - c) + (r + c) m`` numbers.

    An allocation gives a linear the bytes of two factors of some rank. Part of that rank is exchanged for columns,
    those that lose most at that rank: ``||(W - W_r)_i||^2 S_ii``. How much of it, a golden-section search finds for
    each linear. As many columns are taken as the bytes have room for, the index of the columns included (4 bytes each);
    the paper rounds their number, and counts no index.

    Attributes:
        columns: how many are whole in every linear; then an allocation gives the rank of the others. None to search.
        refit: whether the columns are fitted again to make up for what the others lose, and factors and search mind
            that they do (:mod:`eckart.maths.kept_columns`). As published they stay as they are.
        gain: by which share the loss must fall for columns to be taken at all; 0.01 as published.
    """

    name: Literal["kept-columns"] = "kept-columns"
    layer: ClassVar[type[FactoredLinear]] = KeptColumnsLinear
    fits_itself: ClassVar[bool] = True
    latents_are_ranks: ClassVar[bool] = False

    columns: int | None = Field(None, ge=0)
    refit: bool = True
    gain: float = Field(0.01, ge=0.0, lt=1.0)

    def matrices(self, out_features: int, in_features: int, rank: int) -> list[Matrix]:
        """See :meth:`Structure.matrices`."""
        shapes = KeptColumnsLinear.shapes(out_features, in_features, rank, self.columns or 0)
        return [Matrix(shape.out_features, shape.in_features) for shape in shapes]

    def index_bytes(self, out_features: int) -> int:
        """Return the bytes of the index of the columns."""
        return INDEX_BYTES * (self.columns or 0)

    def highest_rank(self, out_features: int, in_features: int) -> int:
        """Return ``min(m, n - c)``; 0 where so many columns are not there."""
        return max(min(out_features, in_features - (self.columns or 0)), 0)

    @property
    def fitter(self) -> KeptColumnsFitter:
        """See :attr:`Structure.fitter`."""
        # Imported when a model is compressed: who loads one needs no solver.
        from eckart.methods.structure.fitting.kept_columns import KeptColumnsFitter

        return KeptColumnsFitter(self)

    def empty_like(
        self, linear: nn.Module, rank: int, precision: Precision, *, affine: bool = False
    ) -> KeptColumnsLinear:
        """See :meth:`Structure.empty_like`."""
        return KeptColumnsLinear.empty_like(linear, rank, precision.scheme, affine=affine, columns=self.columns or 0)

    def with_columns(self, columns: int) -> Self:
        """See :meth:`Structure.with_columns`."""
        return self.model_copy(update={"columns": columns})

    def columns_of(self, layer: FactoredLinear) -> int | None:
        """See :meth:`Structure.columns_of`."""
        return cast(KeptColumnsLinear, layer).kept
