"""A base and factors for what it lacks, found in turn (EoRA, arXiv 2410.21271)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from eckart.layers import HybridLinear, dense_weight_of, fill_child
from eckart.maths.lowrank import solve, truncate
from eckart.maths.quantization import find_scales, from_codes, round_to_scheme
from eckart.maths.sparsity import from_pruned, pack_places, prune
from eckart.maths.whitening import Whitening
from eckart.methods.precision import Bits4, Bits8, Precision, SemiStructured
from eckart.methods.structure.fitting.base import MODEL_DTYPE, Fitter, Laid, set_bias
from eckart.methods.structure.fitting.fit import Fit


class LaidHybrid(Laid, Protocol):
    """What is asked of :class:`eckart.methods.structure.Hybrid`."""

    @property
    def base(self) -> Bits4 | Bits8 | SemiStructured:
        """How the base is stored."""
        ...

    @property
    def alternations(self) -> int:
        """How often both parts are found again."""
        ...


class HybridFitter(Fitter[HybridLinear]):
    """See :class:`eckart.methods.structure.Hybrid`."""

    structure: LaidHybrid

    def remainder(self, weight: Tensor, whitening: Whitening) -> Tensor:
        """Return what the nearest codes, or the numbers that stay, leave of a weight; see :meth:`Fitter.remainder`."""
        base = self.structure.base
        if isinstance(base, SemiStructured):
            kept, places = prune(weight, whitening.second_moment)
            return weight - from_pruned(kept, pack_places(places), weight.shape[1])
        scales = find_scales(weight, base.scheme)
        return weight - from_codes(round_to_scheme(weight, scales, base.scheme), scales, base.scheme)

    def factored(
        self,
        linear: nn.Module,
        second: Tensor,
        first: Tensor,
        stored: torch.dtype | None = None,
        precision: Precision = MODEL_DTYPE,
        fit: Fit | None = None,
    ) -> HybridLinear:
        """Return the layer that fits best; of the factors only the rank counts, since the base changes them."""
        if fit is None:  # all inputs weigh the same
            target = second.detach().double() @ first.detach().double()
            fit = Fit(target, Whitening.identity(target.shape[1], target.device))
        return self.fitted(linear, len(first), stored, precision, fit)

    def fitted(
        self, linear: nn.Module, rank: int, stored: torch.dtype | None, precision: Precision, fit: Fit
    ) -> HybridLinear:
        """See :meth:`Fitter.fitted`."""
        layer = self.empty_like(linear, rank, precision, fit)
        self.solve_for(layer, fit, stored, feedback=precision.feeds_back)
        set_bias(layer, linear, stored, fit)
        return layer

    def solve_for(
        self, layer: HybridLinear, fit: Fit, stored: torch.dtype | None = None, *, feedback: bool = True
    ) -> float:
        """Set all weights to minimise ``|| C^T (T - base - second first) R ||^2``, and return what is lost.

        First the base is the target rounded, and the factors are the best of their rank for what rounding left: that
        is EoRA. An alternation rounds anew what the factors leave, and solves for the factors again. Rounding is no
        projection, so that an alternation can lose more than it wins; the best state, as it is stored, is kept.

        Args:
            layer: is changed in place.
            fit: the target and what its errors cost.
            stored: dtype of what is no code; by default that of the layer.
            feedback: whether ``second`` makes up for the rounding of ``first``; of use below 16 bits.
        """
        least, best = float("inf"), dict[str, Tensor]()
        # With the inputs, numbers of the base make up for what those before them in the row lost (GPTQ), and of pruned
        # ones those stay that the inputs make large (Wanda).
        moment = fit.second_moment if self.structure.base.feeds_back else None
        low_rank = torch.zeros_like(fit.target)
        for _ in range(self.structure.alternations + 1):
            fill_child(layer.base, fit.target - low_rank, None, stored, moment)
            rest = Fit(fit.target - dense_weight_of(layer.base).to(fit.target.device), fit.inputs, fit.metric)
            if fit.solver is None:
                solution = solve(fit.whitening, None, rest.target, fit.metric)
            else:
                solution = fit.solver(fit.whitening, None, rest.target, fit.metric, layer.rank)
            self.set_factors(layer, *truncate(solution, layer.rank), stored, rest if feedback else None)
            low_rank = layer.low_rank_weight().to(fit.target.device)
            loss = rest.loss(low_rank)
            if not best or loss < least:
                least, best = loss, {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        layer.load_state_dict(best)
        return least
