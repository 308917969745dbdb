"""Rows of the weight itself, and the others as combinations of them (PIFA, arXiv 2501.19090)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from eckart.layers.factored import FactoredLinear
from eckart.layers.linear import bias_vector
from eckart.pivoting import choose_pivots, other_rows


class PivotedLinear(FactoredLinear):
    """``p = first(x)`` are r of the outputs; ``second(p)`` are the other m - r; an index puts them in order.

    It takes r (m + n - r) numbers where two factors of the same rank take r (m + n).

    Attributes:
        first: in features -> rank; weight (rank, in features), rows of the weight; with their biases.
        second: rank -> out features - rank; its bias is what the combined rows need beyond that of the pivots.
        index: (out features,) whole numbers: the place of each output in ``[p, second(p)]``.
    """

    index: Tensor

    def make_children(self, *, bias: bool, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """See :meth:`FactoredLinear.make_children`.

        Raises:
            ValueError: not even one row would be left to combine.
        """
        others = self.out_features - self.rank
        if others < 1:
            raise ValueError(f"a pivoted layer of {self.out_features} outputs has a rank below that, found {self.rank}")
        self.first = nn.Linear(self.in_features, self.rank, bias=bias, device=device, dtype=dtype)
        self.second = nn.Linear(self.rank, others, bias=bias, device=device, dtype=dtype)
        index = torch.arange(self.out_features, device=device, dtype=index_dtype(self.out_features))
        self.register_buffer("index", index)

    @classmethod
    def from_factors(cls, linear: nn.Module, second: Tensor, first: Tensor, stored: torch.dtype | None = None) -> Self:
        """See :meth:`FactoredLinear.from_factors`."""
        second, first = second.detach().double(), first.detach().double()
        layer = cls.empty_like(linear, len(first))
        stored = stored or layer.first.weight.dtype
        pivots, coefficients = choose_pivots(second)
        others = other_rows(pivots, layer.out_features)
        bias = bias_vector(linear)
        with torch.no_grad():
            layer.first.weight.copy_((second[pivots] @ first).to(stored))
            layer.second.weight.copy_(coefficients.to(stored))
            places = torch.cat([pivots, others])
            layer.index[places] = torch.arange(len(places), dtype=layer.index.dtype, device=layer.index.device)
            if bias is not None:
                layer.first.bias.copy_(bias[pivots])
                passed_on = layer.second.weight.double() @ layer.first.bias.double()
                layer.second.bias.copy_((bias[others].double() - passed_on).to(stored))
        return layer

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in features) to (..., out features)."""
        pivots = self.first(inputs)
        return self._in_order(torch.cat([pivots, self.second(pivots)], dim=-1), -1)

    @property
    def weight(self) -> Tensor:
        """See :attr:`FactoredLinear.weight`."""
        return self._in_order(torch.cat([self.first.weight, self.second.weight @ self.first.weight]), 0)

    def product(self) -> Tensor:
        """See :meth:`FactoredLinear.product`."""
        first, second = self.first.weight.detach().double(), self.second.weight.detach().double()
        return self._in_order(torch.cat([first, second @ first]), 0)

    def dense_bias(self) -> Tensor | None:
        """See :meth:`FactoredLinear.dense_bias`."""
        first, second = bias_vector(self.first), bias_vector(self.second)
        if first is None or second is None:
            return None
        dtype, first, second = first.dtype, first.detach().double(), second.detach().double()
        passed_on = self.second.weight.detach().double() @ first
        return self._in_order(torch.cat([first, passed_on + second]), 0).to(dtype)

    def _in_order(self, values: Tensor, dim: int) -> Tensor:
        return values.index_select(dim, self.index.int())

    def has_valid_index(self) -> bool:
        """Return whether the index names every output once."""
        expected = torch.arange(self.out_features, dtype=self.index.dtype, device=self.index.device)
        return bool(torch.equal(self.index.sort().values, expected))


def index_dtype(out_features: int) -> torch.dtype:
    """Return the smallest dtype that holds the places of so many outputs."""
    return torch.int16 if out_features <= torch.iinfo(torch.int16).max + 1 else torch.int32
