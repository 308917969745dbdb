"""Factors of 8 bits and their rest of 16: each makes up for what those before it lost."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from eckart.layers import RemappedLinear, dense_weight_of, fill_child
from eckart.maths.feedback import DAMPING
from eckart.maths.lowrank import refit
from eckart.methods.precision import Precision
from eckart.methods.structure.fitting.base import Fitter, Laid
from eckart.methods.structure.fitting.fit import Fit


class LaidRemapped(Laid, Protocol):
    """What is asked of :class:`eckart.methods.structure.Remapped`."""

    @property
    def feedback(self) -> bool:
        """Whether what rounding loses is made up for."""
        ...


class RemappedFitter(Fitter[RemappedLinear]):
    """See :class:`eckart.methods.structure.Remapped`."""

    structure: LaidRemapped

    def feeds_back(self, precision: Precision) -> bool:
        """Return what the structure says: it has a precision of its own."""
        return self.structure.feedback

    def set_factors(
        self,
        layer: RemappedLinear,
        second: Tensor,
        first: Tensor,
        stored: torch.dtype | None = None,
        fit: Fit | None = None,
    ) -> None:
        """See :meth:`Fitter.set_factors`."""
        common = layer.common
        held = _set_first(layer, first, stored, fit)
        moment = None
        if fit is not None:
            second = refit(second, held, fit.target, fit.second_moment)
            moment = held @ fit.second_moment @ held.T
        fill_child(layer.second, second[:common], None, stored, moment)
        if layer.rest is not None and layer.out_features > common:
            fill_child(layer.rest, second[common:], None, stored)


def _set_first(layer: RemappedLinear, first: Tensor, stored: torch.dtype | None, fit: Fit | None) -> Tensor:
    """Set all that is made of ``first``, (rank, in features), and return it as it is stored, in float64."""
    common = layer.common
    if layer.rest is None or layer.out_features > common:
        fill_child(layer.first, first, None, stored, None if fit is None else fit.second_moment)
        return dense_weight_of(layer.first)
    codes, rest = first[:, :common], first[:, common:]
    if fit is None or not fit.second_moment.any():
        fill_child(layer.first, codes, None, stored)
    else:
        # The columns of 16 bits come last, and make up for what is lost in front of them without a loss of their
        # own. What they cannot make up for is measured by the Schur complement of their moment.
        moment = fit.second_moment
        damped = moment + DAMPING * moment.diagonal().mean() * torch.eye(len(moment)).to(moment)
        cross = damped[common:, :common]
        answer = torch.cholesky_solve(cross, torch.linalg.cholesky(damped[common:, common:]))
        fill_child(layer.first, codes, None, stored, damped[:common, :common] - cross.T @ answer)
        rest = rest + (codes - layer.first.weight.detach().to(codes)) @ answer.T
    fill_child(layer.rest, rest, None, stored)
    return torch.cat([dense_weight_of(layer.first), dense_weight_of(layer.rest)], dim=1)
