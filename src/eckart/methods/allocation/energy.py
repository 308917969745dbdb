"""Energy: the exact truncation loss a byte, over all linears at once."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from eckart.methods.allocation.base import Allocation, gain_per_byte, relative_energy
from eckart.methods.allocation.fit_to_budget import GainPerByte
from eckart.methods.allocation.hull import fill_by_hull
from eckart.methods.allocation.rank_budget import RankBudget, Ranks
from eckart.methods.sensitivity.layer_statistics import LayerStatistics, Needs


class Energy(Allocation):
    """Minimises the sum over linears of ``||W X - W' X||^2``, exact for every rank by the spectrum.

    Attributes:
        relative: whether each linear's loss is divided by ``||W X||^2``; outputs of different layers differ by orders
            of magnitude in size, and a large one need not matter more.
    """

    name: Literal["energy"] = "energy"
    needs: ClassVar[Needs] = Needs.SPECTRUM

    relative: bool = True

    def choose(self, problem: RankBudget) -> Ranks:
        """Fill by the hull of the losses."""
        return fill_by_hull(problem, problem.losses(self._loss))

    def worth(self, problem: RankBudget) -> GainPerByte:
        """Return the loss saved a byte."""
        return gain_per_byte(problem, problem.losses(self._loss))

    def _loss(self, linear: LayerStatistics) -> Tensor:
        assert linear.energy is not None
        return relative_energy(linear) if self.relative else linear.energy
