"""A second round around the compressed model: Duo-SVD's ranks for modules (arXiv 2510.19385)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from eckart import processes
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.methods.allocation.base import OwnMeasurement, Wanted
from eckart.methods.allocation.exact import best_ranks
from eckart.methods.allocation.rank_budget import Option, RankBudget, Ranks
from eckart.methods.allocation.trials import trial_divergences
from eckart.methods.allocation.with_trials import WithTrials
from eckart.methods.sensitivity.cost import StepSeconds
from eckart.methods.sensitivity.layer_statistics import LayerStatistics, Needs
from eckart.methods.sensitivity.measurements import Measurements

TENTHS = tuple(number / 10 for number in range(1, 11))


class SecondRound(WithTrials):
    """Minimises the sum over linears of the change of the divergence that a change of each one alone makes.

    All linears are truncated to the uniform rank first. Then for every linear and every share of its bytes only that
    linear is changed, and the KL divergence of the model's predictions from those of the original one is measured: how
    it changes around the compressed model, and not around the original one, where errors of different linears add up
    less well. The least sum within the budget is found by dynamic programming.

    Formulas and numbers are those of the published code. Unlike there, the ranks that are chosen are those that were
    measured, of stored bytes that never exceed the budget. There bytes are ``int(share mn)`` and the sum nearest to the
    budget is taken, which may lie above it. That code's other half, columns of a weight that stay as they are, is not
    here.

    Attributes:
        shares: of its bytes at which each linear is tried; 1 is the dense weight.
        rounds: how often that is done; behind the first one it is around the ranks that were found before. The paper
            has one.
    """

    name: Literal["second-round"] = "second-round"
    needs: ClassVar[Needs] = Needs.SPECTRUM

    shares: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = Field(TENTHS, min_length=1)
    rounds: int = Field(1, ge=1)

    @property
    def own_measurement(self) -> OwnMeasurement:
        """See :attr:`Allocation.own_measurement`."""
        return OwnMeasurement.FOR_EACH_SIZE

    def measure(self, model: BlockwiseModel, measured: Measurements, wanted: Wanted) -> Measurements:
        """Measure the divergences around the compressed model; a linear's are kept by rank, None for dense."""
        sample = self.trial_sample(model)
        options: dict[str, list[int | None]] = {}
        for size, members in wanted.budgets.split(measured.linears):
            if size.keep is not None:
                problem = self.problem(tuple(members), size.keep, wanted.layout, size.option)
                options |= {linear.path: self._tried(problem, linear) for linear in members}
        ranks = self.unmeasured(measured.linears, wanted.budgets, wanted.layout).ranks
        for number in range(self.rounds):
            if number:
                ranks = self.ranks_within(measured.linears, wanted.budgets, wanted.layout)
            base: dict[str, int | None] = processes.give(ranks)
            tried = {path: [rank for rank in of_path if rank != base[path]] for path, of_path in options.items()}

            def advanced(done: int, total: int, offset: int = number) -> None:
                wanted.progress(offset * total + done, self.rounds * total)

            found = trial_divergences(sample, measured.solutions, tried, advanced, base)
            own = {path: {**found.trials.get(path, {}), base[path]: found.base} for path in base}
            measured = replace(measured, linears=tuple(replace(x, own=own[x.path]) for x in measured.linears))
        return measured

    def _tried(self, problem: RankBudget, linear: LayerStatistics) -> list[int | None]:
        """Return the ranks with the most bytes within each share of a linear's; the smallest one where none is."""
        options = problem.options[linear.path]

        def within(share: float) -> Option:
            fitting = [option for option in options if option.bytes <= share * linear.dense_bytes + 1e-6]
            return fitting[-1] if fitting else options[0]

        return list(dict.fromkeys(within(share).rank for share in self.shares))

    def own_seconds(self, steps: StepSeconds) -> float:
        """Return the seconds of all trials, each from its block to the end."""
        return len(self.shares) * self.rounds * self.trial_seconds(steps)

    def own_streams(self, linears: int) -> int:
        """Return how many trials are carried along side by side, and the original and the compressed model."""
        return linears * len(self.shares) + 1

    def choose(self, problem: RankBudget) -> Ranks:
        """Return the measured ranks with the least sum of divergences."""
        return best_ranks(
            problem,
            {
                linear.path: [linear.own.get(option.rank, math.inf) for option in problem.options[linear.path]]
                for linear in problem.linears
            },
        )
