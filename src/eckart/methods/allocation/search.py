"""Search: ASVD's sensitivity-based search of truncation ranks (arXiv 2312.05821, section 3.4)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.methods.allocation.base import OwnMeasurement, Wanted
from eckart.methods.allocation.rank_budget import RankBudget, Ranks
from eckart.methods.allocation.trials import trial_losses
from eckart.methods.allocation.with_trials import WithTrials
from eckart.methods.layout import Layout
from eckart.methods.sensitivity.cost import StepSeconds
from eckart.methods.sensitivity.layer_statistics import LayerStatistics, Needs
from eckart.methods.sensitivity.measurements import Measurements


class Search(WithTrials):
    """Every linear is truncated alone, at a few shares of its bytes, and the model's loss is measured.

    All pairs of a linear and a share are sorted by that loss. A cut through the list allows the pairs below it; each
    linear takes the smallest share allowed to it, or stays dense. The cut is as low in loss as the budget permits; the
    bisection of the published code may stop above it. That code also searches and truncates the model's head, and
    decomposes with random sketches; here only the linears of the blocks are truncated, with exact decompositions.

    Attributes:
        shares: that are tried.
    """

    name: Literal["search"] = "search"
    needs: ClassVar[Needs] = Needs.SPECTRUM

    shares: tuple[float, ...] = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

    @property
    def own_measurement(self) -> OwnMeasurement:
        """See :attr:`Allocation.own_measurement`."""
        return OwnMeasurement.ONCE

    def measure(self, model: BlockwiseModel, measured: Measurements, wanted: Wanted) -> Measurements:
        """Measure the loss of all trials; a linear's are kept by rank."""
        own = wanted.budgets.own
        ranks = {
            # Where a rank is said, none is looked for.
            linear.path: self._trial_ranks(linear, wanted.layout)
            if linear.path not in own or own[linear.path].rank is None
            else []
            for linear in measured.linears
        }
        sample = self.trial_sample(model)
        losses = trial_losses(sample, measured.solutions, ranks, wanted.progress)
        return replace(measured, linears=tuple(replace(x, own=losses.get(x.path, {})) for x in measured.linears))

    def _trial_ranks(self, linear: LayerStatistics, layout: Layout) -> list[int]:
        shares = (linear.layout(layout).rank_of_share(*linear.shape, share) or 0 for share in self.shares)
        return sorted(set(shares) - {0})

    def own_seconds(self, steps: StepSeconds) -> float:
        """Return the seconds of all trials, each from its block to the end."""
        return len(self.shares) * self.trial_seconds(steps)

    def own_streams(self, linears: int) -> int:
        """Return how many trials are carried along side by side."""
        return linears * len(self.shares)

    def choose(self, problem: RankBudget) -> Ranks:
        """Return the ranks below the lowest cut that meets the budget, or below the highest if none does."""
        pairs = sorted(
            (loss, index, rank)
            for index, linear in enumerate(problem.linears)
            for rank, loss in (linear.own or {}).items()
        )
        ranks: dict[str, int | None] = {linear.path: None for linear in problem.linears}
        total = problem.whole_bytes
        for _, index, rank in pairs:  # raising the cut, pair by pair
            if total <= problem.budget:
                break
            linear = problem.linears[index]
            current = ranks[linear.path]
            if current is None or rank < current:
                total += problem.cost(linear, rank) - (
                    problem.whole_bytes_of(linear) if current is None else problem.cost(linear, current)
                )
                ranks[linear.path] = rank
        return ranks
