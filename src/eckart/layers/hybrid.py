"""A weight in few bits or of few numbers, and two factors for what it lacks (EoRA, arXiv 2410.21271)."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from eckart.layers.child import Child, ChildShape, Pattern, dense_weight_of, fill_child, make_child
from eckart.layers.factored import Fit
from eckart.layers.two_factor import LowRankLinear
from eckart.maths.lowrank import solve, truncate
from eckart.maths.quantization import QuantScheme


class HybridLinear(LowRankLinear):
    """``y = base(x) + second(first(x))``: a full-rank weight, quantised or pruned, plus a matrix of rank r.

    Attributes:
        base: in features -> out features, in few bits or with half of its numbers, no bias.
        first: in features -> rank, no bias.
        second: rank -> out features, with the bias of the replaced layer.
    """

    base: Child

    def __init__(
        self, in_features: int, out_features: int, rank: int, *, base: QuantScheme | Pattern, **options: Any
    ) -> None:
        super().__init__(in_features, out_features, rank, **options)
        shape = ChildShape(in_features, out_features, bias=False, scheme=base)
        self.base = make_child(shape, None, bias=False, device=options.get("device"), dtype=options.get("dtype"))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in features) to (..., out features)."""
        return cast(Tensor, self.base(inputs)) + super().forward(inputs)

    @property
    def weight(self) -> Tensor:
        """See :attr:`FactoredLinear.weight`."""
        return self.base.weight + super().weight

    def product(self) -> Tensor:
        """See :meth:`FactoredLinear.product`."""
        return dense_weight_of(self.base) + super().product()

    def solve_for(
        self,
        fit: Fit,
        stored: torch.dtype | None = None,
        *,
        alternations: int = 0,
        base_feedback: bool = True,
        feedback: bool = True,
    ) -> float:
        """Set all numbers to minimise ``|| C^T (T - base - second first) R ||^2``, and return what is lost.

        First the base is the target rounded, and the factors are the best of their rank for what rounding left: that
        is EoRA. An alternation rounds anew what the factors leave, and solves for the factors again. Rounding is no
        projection, so that an alternation can lose more than it wins; the best state, as it is stored, is kept.

        Args:
            fit: the target and what its errors cost.
            stored: dtype of what is no code; by default that of the layer.
            alternations: how often both are found again.
            base_feedback: whether the inputs are looked at for the base: numbers make up for what those before them in
                the row lost (GPTQ), and of pruned ones those stay that the inputs make large (Wanda).
            feedback: whether ``second`` makes up for the rounding of ``first``; of use below 16 bits.
        """
        least, best = float("inf"), dict[str, Tensor]()
        low_rank = torch.zeros_like(fit.target)
        for _ in range(alternations + 1):
            fill_child(self.base, fit.target - low_rank, None, stored, fit.second_moment if base_feedback else None)
            rest = Fit(fit.target - dense_weight_of(self.base).to(fit.target.device), fit.inputs, fit.metric)
            solution = solve(fit.whitening, None, rest.target, fit.metric)
            self.set_factors(*truncate(solution, self.rank), stored, rest if feedback else None)
            low_rank = super().product().to(fit.target.device)
            loss = rest.loss(low_rank)
            if not best or loss < least:
                least, best = loss, {name: tensor.clone() for name, tensor in self.state_dict().items()}
        self.load_state_dict(best)
        return least
