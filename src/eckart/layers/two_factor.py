"""Two factors whose product is the weight."""

from __future__ import annotations

from torch import Tensor

from eckart.layers.child import ChildShape, dense_weight_of
from eckart.layers.factored import FactoredLinear
from eckart.layers.linear import bias_vector
from eckart.layers.rows import some_outputs


class LowRankLinear(FactoredLinear):
    """``y = second(first(x))``: a linear layer of rank r, as two linear children.

    Attributes:
        first: in features -> rank, no bias; weight (rank, in features).
        second: rank -> out features, with the bias of the replaced layer; weight (out features, rank).
    """

    @staticmethod
    def shapes(out_features: int, in_features: int, rank: int) -> tuple[ChildShape, ChildShape]:
        """See :meth:`FactoredLinear.shapes`."""
        return ChildShape(in_features, rank, bias=False), ChildShape(rank, out_features, bias=True)

    def decode(self, latents: Tensor, rows: slice | None = None) -> Tensor:
        """See :meth:`FactoredLinear.decode`."""
        return some_outputs(self.second, latents, rows)

    @property
    def weight(self) -> Tensor:
        """See :attr:`FactoredLinear.weight`."""
        return self.second.weight @ self.first.weight

    def dense_weight(self) -> Tensor:
        """See :meth:`FactoredLinear.dense_weight`."""
        return dense_weight_of(self.second) @ dense_weight_of(self.first)

    def dense_bias(self) -> Tensor | None:
        """See :meth:`FactoredLinear.dense_bias`."""
        return bias_vector(self.second)
