"""Two factors, most of whose numbers take 8 bits: the remap of Dobi-SVD (arXiv 2502.02723)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from eckart.layers.child import ChildShape, dense_weight_of, make_child
from eckart.layers.linear import bias_vector
from eckart.layers.rows import RowsLinear, some_outputs
from eckart.layers.two_factor import LowRankLinear
from eckart.maths.quantization import QuantScheme

EIGHT_BITS = QuantScheme(8)


class RemappedLinear(LowRankLinear):
    """Two factors of a weight (m, n), of which ``min(m, n)`` rows of one and columns of the other take 8 bits.

    What the longer factor has beyond that, |m - n| rows or columns, takes 16 bits, so that r components take
    ``2 r max(m, n)`` bytes and the scales: no more than the dense weight at any rank. Rows of both factors have a scale
    each: for ``first`` that is a scale a component. For ``second`` a scale a row rounds best while components are split
    evenly between the factors; scales a component, moved over to ``first``, would be fair to small components that
    hardly matter at the cost of the large ones (measured on weights of a real model).

    Attributes:
        first: the first ``min(m, n)`` input features -> rank, 8 bits.
        second: rank -> the first ``min(m, n)`` output features, 8 bits, with their biases.
        rest: 16 bits; if m > n, rank -> the other output features, with their biases; if m < n, the other input
            features -> rank; None if m = n.
    """

    rest: nn.Linear | None

    def __init__(self, in_features: int, out_features: int, rank: int, **options: Any) -> None:
        super().__init__(in_features, out_features, rank, **options)
        self.common = min(in_features, out_features)
        shape = self.rest_shape(out_features, in_features, rank)
        rest = None
        if shape is not None:
            device, dtype = options.get("device"), options.get("dtype")
            bias, by_rows = options.get("bias", True), issubclass(self.replaced, RowsLinear)
            rest = make_child(shape, None, bias=bias, device=device, dtype=dtype, by_rows=by_rows)
        self.register_module("rest", rest)

    @staticmethod
    def shapes(out_features: int, in_features: int, rank: int) -> tuple[ChildShape, ChildShape]:
        """See :meth:`FactoredLinear.shapes`."""
        common = min(out_features, in_features)
        return (
            ChildShape(common, rank, bias=False, scheme=EIGHT_BITS),
            ChildShape(rank, common, bias=True, scheme=EIGHT_BITS),
        )

    @staticmethod
    def rest_shape(out_features: int, in_features: int, rank: int) -> ChildShape | None:
        """Return the shape of what takes 16 bits, or None if nothing does."""
        if out_features > in_features:
            return ChildShape(rank, out_features - in_features, bias=True)
        if out_features < in_features:
            return ChildShape(in_features - out_features, rank, bias=False)
        return None

    def set_bias(self, bias: Tensor, stored: torch.dtype) -> None:
        """See :meth:`FactoredLinear.set_bias`."""
        super().set_bias(bias[: self.common], stored)
        if self.rest is not None and self.rest.bias is not None:
            self.rest.bias.copy_(bias[self.common :].to(stored))

    def encode(self, inputs: Tensor) -> Tensor:
        """See :meth:`FactoredLinear.encode`."""
        if self.rest is None or self.out_features > self.common:
            return super().encode(inputs)
        rest: Tensor = self.rest(inputs[..., self.common :])
        return super().encode(inputs[..., : self.common]) + rest

    def decode(self, latents: Tensor, rows: slice | None = None) -> Tensor:
        """See :meth:`FactoredLinear.decode`."""
        common, rest = self.common, self.rest
        if rest is None or self.out_features == common:
            return super().decode(latents, rows)
        if rows is None:
            return torch.cat([self.second(latents), rest(latents)], dim=-1)
        start, end, _ = rows.indices(self.out_features)
        parts = []
        if start < common:
            parts.append(some_outputs(self.second, latents, slice(start, min(end, common))))
        if end > common:
            parts.append(some_outputs(rest, latents, slice(max(start, common) - common, end - common)))
        return torch.cat(parts, dim=-1)

    @property
    def weight(self) -> Tensor:
        """See :attr:`FactoredLinear.weight`."""
        rest = None if self.rest is None else self.rest.weight
        second, first = self._factors(self.second.weight, self.first.weight, rest)
        return second @ first

    def dense_weight(self) -> Tensor:
        """See :meth:`FactoredLinear.dense_weight`."""
        rest = None if self.rest is None else dense_weight_of(self.rest)
        second, first = self._factors(dense_weight_of(self.second), dense_weight_of(self.first), rest)
        return second @ first

    def dense_bias(self) -> Tensor | None:
        """See :meth:`FactoredLinear.dense_bias`."""
        bias = bias_vector(self.second)
        if bias is None or self.rest is None or self.rest.bias is None:
            return bias
        return torch.cat([bias, self.rest.bias])

    def _factors(self, second: Tensor, first: Tensor, rest: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return both factors as a whole, (m, r) and (r, n), from the numbers of the children."""
        if rest is None:
            return second, first
        if self.out_features > self.common:
            return torch.cat([second, rest]), first
        return second, torch.cat([first, rest], dim=1)
