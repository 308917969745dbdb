"""A base and factors for what it lacks, found in turn (EoRA, arXiv 2410.21271)."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from eckart.layers import HybridLinear, dense_weight_of, fill_child
from eckart.maths.lowrank import solve, truncate, unseen_moment
from eckart.maths.quantization import find_scales, from_codes, round_to_scheme
from eckart.maths.sparsity import from_pruned, pack_places, prune
from eckart.maths.whitening import Whitening
from eckart.methods.precision import AnyBase, Precision, SemiStructured
from eckart.methods.structure.fitting.base import Laid, TargetFitter, set_bias
from eckart.methods.structure.fitting.fit import Fit

# Share of the mean energy of the inputs that errors cost also where the factors see them: sums are of samples.
SEEN = 0.01
FINER = 4  # bits by which factors must be finer than the base to be found first


class LaidHybrid(Laid, Protocol):
    """What is asked of :class:`eckart.methods.structure.Hybrid`."""

    @property
    def base(self) -> AnyBase:
        """How the base is stored."""
        ...

    @property
    def alternations(self) -> int:
        """How often both parts are found again."""
        ...


class HybridFitter(TargetFitter[HybridLinear]):
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

        Without alternations the base is the target rounded, and the factors are the best of their rank for what
        rounding left: that is EoRA. With them the factors come first, and each alternation rounds what they leave, and
        solves for them again; since that will be done, rounding minds only the errors that ``second`` cannot make up
        for. Factors hardly finer than the base would lose too much of what they then hold: they begin as EoRA's.
        Rounding is no projection, so that an alternation can lose more than it wins: the best state, as it is stored,
        is kept, and the next one goes on from there. Codes are swept over in the last one alone, which gives nearly
        all that sweeps in each would.

        Args:
            layer: is changed in place.
            fit: the target and what its errors cost.
            stored: dtype of what is no code; by default that of the layer.
            feedback: whether ``second`` makes up for the rounding of ``first``; of use below 16 bits.
        """
        least, best, count = float("inf"), dict[str, Tensor](), self.structure.alternations
        if not count or self._factors_are_coarse(layer):
            self._round(layer, fit, stored, None, last=not count)
            least, best = self._fit_factors(layer, fit, stored, feedback=feedback), _copied(layer)
        else:
            self._set_low_rank(layer, fit, stored, feedback=feedback)
        for number in range(1, count + 1):
            self._round(layer, fit, stored, dense_weight_of(layer.first).to(fit.target.device), last=number == count)
            loss = self._fit_factors(layer, fit, stored, feedback=feedback)
            if not best or loss < least:
                least, best = loss, _copied(layer)
            else:
                layer.load_state_dict(best)
        return least

    def _factors_are_coarse(self, layer: HybridLinear) -> bool:
        scheme = self.structure.base.scheme
        return layer.scheme is not None and (scheme is None or layer.scheme.bits < scheme.bits + FINER)

    def _round(
        self, layer: HybridLinear, fit: Fit, stored: torch.dtype | None, first: Tensor | None, *, last: bool
    ) -> None:
        """Set the base to what the factors leave of a target; with ``first`` (r, n), minding what it does not see."""
        target, moment, base = fit.target, None, self.structure.base
        if first is not None:
            target = target - layer.low_rank_weight().to(target)
        # With the inputs, numbers of the base make up for what those before them in the row lost (GPTQ), and of pruned
        # ones those stay that the inputs make large (Wanda).
        if base.feeds_back:
            moment = fit.second_moment
            if first is not None:
                mean = moment.diagonal().mean()
                moment = unseen_moment(first, moment) + SEEN * mean * torch.eye(len(moment)).to(moment)
        metric = fit.output_moment if base.two_sided else None
        fill_child(layer.base, target, None, stored, moment, metric, base.sweeps if last else 0)

    def _fit_factors(self, layer: HybridLinear, fit: Fit, stored: torch.dtype | None, *, feedback: bool) -> float:
        """Set the factors to the best for what the base leaves of a target, and return what is lost."""
        rest = replace(fit, target=fit.target - dense_weight_of(layer.base).to(fit.target))
        self._set_low_rank(layer, rest, stored, feedback=feedback)
        return rest.loss(layer.low_rank_weight().to(rest.target))

    def _set_low_rank(self, layer: HybridLinear, fit: Fit, stored: torch.dtype | None, *, feedback: bool) -> None:
        """Set the factors to the best for a target."""
        solution = (fit.solver or solve)(fit.whitening, None, fit.target, fit.metric, layer.rank)
        self.set_factors(layer, *truncate(solution, layer.rank), stored, fit if feedback else None)


def _copied(layer: HybridLinear) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in layer.state_dict().items()}
