"""Pivots: which rows the others are combined of."""

from __future__ import annotations

from torch import Tensor

from eckart.layers import PivotedLinear
from eckart.maths.pivoting import choose_pivots, other_rows
from eckart.methods.structure.fitting.base import Arrangement, Fitter


class PivotedFitter(Fitter[PivotedLinear]):
    """See :class:`eckart.methods.structure.Pivoted`."""

    def arrange(self, second: Tensor, first: Tensor, sizes: Tensor | None = None) -> Arrangement:
        """Choose the pivots; see :meth:`Fitter.arrange`."""
        pivots, coefficients = choose_pivots(second, sizes)
        return Arrangement(second[pivots] @ first, coefficients, other_rows(pivots, len(second)), pivots)

    def set_rows(self, layer: PivotedLinear, arrangement: Arrangement) -> None:
        """Set the index."""
        assert arrangement.first_rows is not None
        layer.set_rows(arrangement.first_rows, arrangement.second_rows)
