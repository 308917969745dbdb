"""Curvature: the predicted rise of the model's loss a byte, over all linears at once (IO-SVD, arXiv 2605.15626)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from eckart.methods.allocation.base import Allocation, gain_per_byte
from eckart.methods.allocation.fit_to_budget import GainPerByte
from eckart.methods.allocation.hull import fill_by_hull
from eckart.methods.allocation.rank_budget import RankBudget, Ranks
from eckart.methods.metric import Fisher
from eckart.methods.sensitivity.layer_statistics import LayerStatistics, Needs


class Curvature(Allocation):
    """Minimises the sum over linears of ``1/2 tr(G D S D^T)``, D being what truncation takes off the weight.

    S is the second moment of a linear's inputs and G that of the gradients of its outputs, both a token: the
    Kronecker-factored curvature of the loss (K-FAC, arXiv 1503.05671). Component i adds ``s_i^2 / 2 b_i^T G b_i``, b_i
    its output direction; losses of different linears are in one unit, nats a token.

    Attributes:
        metric: how G is measured, if the objective has no output metric of its own.
    """

    name: Literal["curvature"] = "curvature"
    needs: ClassVar[Needs] = Needs.SPECTRUM | Needs.CURVATURE

    metric: Fisher = Field(default_factory=Fisher)

    def choose(self, problem: RankBudget) -> Ranks:
        """Fill by the hull of the losses."""
        return fill_by_hull(problem, problem.losses(_loss))

    def worth(self, problem: RankBudget) -> GainPerByte:
        """Return the loss saved a byte."""
        return gain_per_byte(problem, problem.losses(_loss))


def _loss(linear: LayerStatistics) -> Tensor:
    assert linear.curvature is not None
    return linear.curvature
