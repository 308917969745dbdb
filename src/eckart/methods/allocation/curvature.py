"""Curvature: the predicted rise of the model's loss a byte, over all linears at once (IO-SVD, arXiv 2605.15626)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.methods.allocation.base import OwnMeasurement, Wanted, gain_per_byte
from eckart.methods.allocation.exact import best_ranks, finite_losses
from eckart.methods.allocation.fit_to_budget import GainPerByte
from eckart.methods.allocation.hull import fill_by_hull
from eckart.methods.allocation.rank_budget import RankBudget, Ranks
from eckart.methods.allocation.reference_trials import reference_divergences, scaled_losses
from eckart.methods.allocation.with_trials import WithTrials
from eckart.methods.metric import Fisher
from eckart.methods.sensitivity.cost import StepSeconds
from eckart.methods.sensitivity.layer_statistics import LayerStatistics, Needs
from eckart.methods.sensitivity.measurements import Measurements


class Curvature(WithTrials):
    """Minimises the sum over linears of ``1/2 tr(G D S D^T)``, D being what truncation takes off the weight.

    S is the second moment of a linear's inputs and G that of the gradients of its outputs, both a token: the
    Kronecker-factored curvature of the loss (K-FAC, arXiv 1503.05671). Component i adds ``s_i^2 / 2 b_i^T G b_i``, b_i
    its output direction; losses of different linears are in one unit, nats a token.

    The curvature is that at the original weights, and the cut may be far from there. With ``scale`` ``measured`` each
    linear's prediction is multiplied by ``K / prediction`` at a reference rank. K is the KL divergence of the model's
    predictions with that linear alone truncated to it, one run of the model a linear, as in LEMS (arXiv 2610.32878).
    Ranks are then chosen by dynamic programming, exactly. That combination is Eckart's own.

    Attributes:
        metric: how G is measured, if the objective has no output metric of its own.
        scale: of the prediction: as ``predicted``, or ``measured`` once a linear.
        reference: share of the break-even rank at which it is measured.
    """

    name: Literal["curvature"] = "curvature"
    needs: ClassVar[Needs] = Needs.SPECTRUM | Needs.CURVATURE

    metric: Fisher = Field(default_factory=Fisher)
    scale: Literal["predicted", "measured"] = "predicted"
    reference: float = Field(0.1, gt=0.0, lt=1.0)

    @property
    def is_measured(self) -> bool:
        """Whether the scale of a prediction is measured."""
        return self.scale == "measured"

    @property
    def own_measurement(self) -> OwnMeasurement:
        """See :attr:`Allocation.own_measurement`."""
        return OwnMeasurement.ONCE if self.is_measured else OwnMeasurement.NONE

    @property
    def label(self) -> str:
        """See :attr:`Allocation.label`."""
        return repr(self.name) + (" of a measured scale" if self.is_measured else "")

    @property
    def truncates(self) -> bool:
        """See :attr:`Allocation.truncates`."""
        return self.is_measured

    def measure(self, model: BlockwiseModel, measured: Measurements, wanted: Wanted) -> Measurements:
        """Measure the divergence of each linear at its reference rank, if that is asked for."""
        if not self.is_measured:
            return measured
        sample = self.trial_sample(model)
        found = reference_divergences(sample, measured, wanted, self.reference)
        return replace(measured, linears=tuple(replace(x, own=found.get(x.path, 0.0)) for x in measured.linears))

    def own_seconds(self, steps: StepSeconds) -> float:
        """Return the seconds of one trial a linear, each from its block to the end."""
        return self.trial_seconds(steps) * self.is_measured

    def own_streams(self, linears: int) -> int:
        """Return how many trials are carried along side by side."""
        return linears * self.is_measured

    def choose(self, problem: RankBudget) -> Ranks:
        """Fill by the hull of the losses; exactly where their scale was measured."""
        losses = self.losses(problem)
        return best_ranks(problem, losses) if self.is_measured else fill_by_hull(problem, losses)

    def worth(self, problem: RankBudget) -> GainPerByte:
        """Return the loss saved a byte."""
        return gain_per_byte(problem, finite_losses(self.losses(problem)))

    def losses(self, problem: RankBudget) -> dict[str, list[float]]:
        """Return the loss at each option of each linear, by path, in nats a prediction."""
        if not self.is_measured:
            return problem.losses(_loss)
        return scaled_losses(problem, _loss, lambda linear: float(linear.own), self.reference)


def _loss(linear: LayerStatistics) -> Tensor:
    assert linear.curvature is not None
    return linear.curvature
