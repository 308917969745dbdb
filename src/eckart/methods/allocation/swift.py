"""Swift-SVD's score of importance and loss, and the search for their balance (arXiv 2604.01609)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from eckart import processes
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.methods.allocation.base import OwnMeasurement, Wanted
from eckart.methods.allocation.by_shares import ByShares, of_each_kind
from eckart.methods.allocation.rank_budget import RankBudget
from eckart.methods.allocation.trials import truncated_loss
from eckart.methods.allocation.with_trials import WithTrials
from eckart.methods.sensitivity.cost import StepSeconds
from eckart.methods.sensitivity.layer_statistics import LayerStatistics, Needs
from eckart.methods.sensitivity.measurements import Measurements

TENTHS = tuple(number / 10 for number in range(11))


class Swift(ByShares, WithTrials):
    """Among linears of one kind ranks above a common base go by ``s = b^a log(e + loss)^(1 - a)``.

    b is the importance of a linear, stretched to [1, 2] over its kind. The loss is that of truncating it to the uniform
    rank, ``||W X - W' X||`` in the objective's metric, not divided by the number of tokens. A rank is
    ``base k + N (1 - base) k s / sum(s)`` with k the uniform rank and N the linears of the kind. The exponent a is the
    one of :attr:`alphas` with which the truncated model's loss on calibration samples is least; the paper has
    validation text.

    Of the paper its formulas are known, and not what the importance is: here it is 1 less the cosine of the hidden
    states in front of the block and behind it, which is our guess. The published code differs from its paper: there it
    is ``log(1 + loss)`` with the norm of the whole output as the loss, and the base is a quarter of the full rank.

    Attributes:
        base: share of the uniform rank that every linear gets.
        alpha: the exponent a; None to search for it.
        alphas: that are tried.
    """

    name: Literal["swift"] = "swift"
    needs: ClassVar[Needs] = Needs.SPECTRUM | Needs.SIMILARITY

    base: float = Field(0.5, ge=0.0, le=1.0)
    alpha: float | None = Field(None, ge=0.0, le=1.0)
    alphas: tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...] = Field(TENTHS, min_length=1)

    @property
    def own_measurement(self) -> OwnMeasurement:
        """See :attr:`Allocation.own_measurement`."""
        return OwnMeasurement.FOR_EACH_SIZE if self.alpha is None else OwnMeasurement.NONE

    @property
    def truncates(self) -> bool:
        """See :attr:`Allocation.truncates`."""
        return self.alpha is None

    def measure(self, model: BlockwiseModel, measured: Measurements, wanted: Wanted) -> Measurements:
        """Find the exponent with which the truncated model's loss is least; it is kept with each linear."""
        if self.alpha is not None:
            return measured
        sample = self.trial_sample(model)
        losses = {}
        for number, alpha in enumerate(self.alphas):
            tried = self.model_copy(update={"alpha": alpha})
            ranks = processes.give(tried.ranks_within(measured.linears, wanted.budgets, wanted.layout))
            losses[alpha] = truncated_loss(sample, measured.solutions, ranks)
            wanted.progress(number + 1, len(self.alphas))
        best = min(losses, key=lambda alpha: losses[alpha])
        return replace(measured, linears=tuple(replace(x, own=best) for x in measured.linears))

    def own_seconds(self, steps: StepSeconds) -> float:
        """Return the seconds of one run of the model for each exponent that is tried."""
        return len(self.alphas) * self.run_seconds(steps) if self.alpha is None else 0.0

    def shares(self, problem: RankBudget) -> dict[str, float]:
        """Return the share of its bytes that each linear keeps, by path, at most 1."""
        shares = {}
        for members in of_each_kind(problem.linears):
            scores = self._scores(problem, members)
            sizes = [linear.dense_bytes for linear in members]
            mean = sum(score * size for score, size in zip(scores, sizes, strict=True)) / sum(sizes)
            for linear, score in zip(members, scores, strict=True):
                part = self.base + (1 - self.base) * score / mean
                shares[linear.path] = min(problem.keep * part, 1.0)
        return shares

    def _scores(self, problem: RankBudget, members: list[LayerStatistics]) -> list[float]:
        alpha = members[0].own if self.alpha is None else self.alpha
        importances = [1 - (linear.similarity or 0.0) for linear in members]
        low, high = min(importances), max(importances)
        found = []
        for linear, importance in zip(members, importances, strict=True):
            assert linear.energy is not None
            stretched = 1 + (importance - low) / (high - low) if high > low else 1.0
            rank = problem.rank_of_share(linear, problem.keep)
            tail = 0.0 if rank is None else float(linear.energy[rank:].sum())
            loss = math.sqrt(max(tail, 0.0) * linear.tokens)
            found.append(stretched**alpha * math.log(math.e + loss) ** (1 - alpha))
        return found
