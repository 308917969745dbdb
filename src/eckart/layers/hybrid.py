"""A weight in few bits or of few numbers, and two factors for what it lacks (EoRA, arXiv 2410.21271)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from eckart.layers.child import Child, ChildShape, Pattern, dense_weight_of, make_child
from eckart.layers.rows import some_outputs
from eckart.layers.two_factor import LowRankLinear
from eckart.maths.quantization import QuantScheme


class HybridLinear(LowRankLinear):
    """``y = base(x) + second(first(x))``: a full-rank weight, quantised or pruned, plus a matrix of rank r.

    Attributes:
        base: in features -> out features, in few bits or with half of its numbers, no bias.
        first: in features -> rank, no bias.
        second: rank -> out features, with the bias of the replaced layer.
    """

    has_latents = False
    base: Child

    def __init__(
        self, in_features: int, out_features: int, rank: int, *, base: QuantScheme | Pattern, **options: Any
    ) -> None:
        super().__init__(in_features, out_features, rank, **options)
        shape = ChildShape(in_features, out_features, bias=False, scheme=base)
        self.base = make_child(shape, None, bias=False, device=options.get("device"), dtype=options.get("dtype"))

    def forward(self, inputs: Tensor, rows: slice | None = None) -> Tensor:
        """Map (..., in features) to (..., out features), or to those outputs that ``rows`` are."""
        return some_outputs(self.base, inputs, rows) + self.decode(self.encode(inputs), rows)

    @property
    def weight(self) -> Tensor:
        """See :attr:`FactoredLinear.weight`."""
        return self.base.weight + super().weight

    def dense_weight(self) -> Tensor:
        """See :meth:`FactoredLinear.dense_weight`."""
        return dense_weight_of(self.base) + self.low_rank_weight()

    def low_rank_weight(self) -> Tensor:
        """Return what the factors multiply to, (out features, in features) float64, detached."""
        return super().dense_weight()
