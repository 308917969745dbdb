"""Two factors: how each component is split between them."""

from __future__ import annotations

import math

from torch import Tensor

from eckart.layers import LowRankLinear
from eckart.maths.lowrank import Solution, truncate
from eckart.methods.structure.fitting.base import Fitter
from eckart.methods.structure.two_factor import TwoFactor


class TwoFactorFitter(Fitter[LowRankLinear]):
    """See :class:`TwoFactor`."""

    structure: TwoFactor

    def truncated(self, solution: Solution, rank: int, tokens: float) -> tuple[Tensor, Tensor]:
        """See :meth:`Fitter.truncated`."""
        if self.structure.split == "norms":
            return truncate(solution, rank)
        return truncate(solution, rank, solution.singular_values / math.sqrt(tokens))
