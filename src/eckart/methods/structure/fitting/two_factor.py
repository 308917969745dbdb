"""Two factors: how each component is split between them."""

from __future__ import annotations

import math
from typing import Protocol

from torch import Tensor

from eckart.layers import LowRankLinear
from eckart.maths.lowrank import Solution, truncate
from eckart.methods.structure.fitting.base import Fitter, Laid


class LaidAsTwoFactors(Laid, Protocol):
    """What is asked of :class:`eckart.methods.structure.TwoFactor`."""

    @property
    def split(self) -> str:
        """What of each component is divided evenly."""
        ...


class TwoFactorFitter(Fitter[LowRankLinear]):
    """See :class:`eckart.methods.structure.TwoFactor`."""

    structure: LaidAsTwoFactors

    def truncated(self, solution: Solution, rank: int, tokens: float) -> tuple[Tensor, Tensor]:
        """See :meth:`Fitter.truncated`."""
        if self.structure.split == "norms":
            return truncate(solution, rank)
        return truncate(solution, rank, solution.singular_values / math.sqrt(tokens))
