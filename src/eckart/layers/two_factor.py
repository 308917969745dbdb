"""Two factors whose product is the weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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

    def cut(self, rank: int) -> None:
        """Keep the first ``rank`` components only, as new parameters; of layers whose factors are plain linear ones.

        Args:
            rank: from 1 to that of the layer.
        """
        first, second = self.first.get_parameter("weight"), self.second.get_parameter("weight")
        for child, old, numbers in (
            (self.first, first, first.detach()[:rank].clone()),
            (self.second, second, second.detach()[:, :rank].clone(memory_format=torch.contiguous_format)),
        ):
            child.register_parameter("weight", nn.Parameter(numbers, old.requires_grad))
        self.rank = self.first.out_features = self.second.in_features = rank

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
