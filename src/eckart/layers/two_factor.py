"""Two factors whose product is the weight."""

from __future__ import annotations

from typing import Self, cast

import torch
from torch import Tensor, nn

from eckart.layers.factored import FactoredLinear
from eckart.layers.linear import bias_vector


class LowRankLinear(FactoredLinear):
    """``y = second(first(x))``: a linear layer of rank r, as two plain ``nn.Linear`` children.

    Attributes:
        first: in features -> rank, no bias; weight (rank, in features).
        second: rank -> out features, with the bias of the replaced layer; weight (out features, rank).
    """

    def make_children(self, *, bias: bool, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """See :meth:`FactoredLinear.make_children`."""
        self.first = nn.Linear(self.in_features, self.rank, bias=False, device=device, dtype=dtype)
        self.second = nn.Linear(self.rank, self.out_features, bias=bias, device=device, dtype=dtype)

    @classmethod
    def from_factors(cls, linear: nn.Module, second: Tensor, first: Tensor, stored: torch.dtype | None = None) -> Self:
        """See :meth:`FactoredLinear.from_factors`."""
        layer = cls.empty_like(linear, len(first))
        bias = bias_vector(linear)
        stored = stored or layer.first.weight.dtype
        with torch.no_grad():
            layer.first.weight.copy_(first.to(stored))
            layer.second.weight.copy_(second.to(stored))
            if bias is not None:
                layer.second.bias.copy_(bias)
        return layer

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in features) to (..., out features)."""
        return cast(Tensor, self.second(self.first(inputs)))

    @property
    def weight(self) -> Tensor:
        """See :attr:`FactoredLinear.weight`."""
        return self.second.weight @ self.first.weight

    def product(self) -> Tensor:
        """See :meth:`FactoredLinear.product`."""
        return self.second.weight.detach().double() @ self.first.weight.detach().double()

    def dense_bias(self) -> Tensor | None:
        """See :meth:`FactoredLinear.dense_bias`."""
        return self.second.bias
