"""LEMS: an error model of each linear, scaled by one measured divergence, and an exact choice (arXiv 2610.32878)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from eckart import processes
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.methods.allocation.base import OwnMeasurement, Wanted, gain_per_byte, relative_energy
from eckart.methods.allocation.exact import best_ranks, finite_losses
from eckart.methods.allocation.fit_to_budget import GainPerByte
from eckart.methods.allocation.rank_budget import RankBudget, Ranks
from eckart.methods.allocation.reference_trials import break_even_rank, reference_divergences, scaled_losses
from eckart.methods.allocation.trials import trial_divergences
from eckart.methods.allocation.with_trials import WithTrials
from eckart.methods.sensitivity.cost import StepSeconds
from eckart.methods.sensitivity.layer_statistics import LayerStatistics, Needs
from eckart.methods.sensitivity.measurements import Measurements

NotNegative = Annotated[float, Field(ge=0.0)]

LEAST_TAIL = 1e-6  # of a spectrum at the reference rank, as published
BELOW_HALF = 0.5  # share of bytes below which smaller ranks are allowed


@dataclass(frozen=True)
class Trialled:
    """What was found of a linear.

    Attributes:
        divergence: of the model with it alone at the reference rank, in nats a prediction.
        bias: by which its errors count.
    """

    divergence: float
    bias: float


class Lems(WithTrials):
    """Minimises the sum over linears of ``b K t(r) / t(reference)`` exactly, dense weights among the options.

    ``t(r)`` is the share of a linear's energy in the objective's metric that the components beyond r carry: the shape
    of its error. K is its scale: the KL divergence of the model's predictions with this linear alone truncated to the
    reference rank, one run of the model a linear. Divergences of different linears are taken to add up.

    Formulas and numbers are those of the published code; the paper's body was not read. Unlike that code:

    - Logits that are not finite make a divergence infinite. There they make it 0, and a linear whose cut breaks the
      model counts as free.
    - The reference is read at the reference rank, and not one below.
    - What a choice costs is the bytes that are stored. There it is ``r / int(mn / (m + n))`` of the weight.
    - The sum is minimised by dynamic programming, and not by a commercial solver that stops after 180 s.
    - ``alpha`` and ``gamma`` are said, or the best of :attr:`biases`. There 10 pairs are drawn by a tree-structured
      Parzen estimator. By default there is no bias: others measured its effect as small, of no consistent sign and not
      significant (SSRN 7417408).

    Attributes:
        reference: share of the break-even rank at which K is measured.
        temperature: by which the logits of both models are divided.
        first_position: from which predictions count, in samples that are longer.
        least: smallest rank, as a share of the break-even rank, unless the budget asks for smaller ones.
        least_below_half: the same where less than half of the bytes are kept.
        most: share of the break-even rank from which a linear rather stays dense.
        alpha: how the bias falls with the depth of a block; 0 is linear.
        gamma: how far the first block's bias is above 1, that of the last; 0 for none.
        biases: pairs (alpha, gamma) that are tried beside these two; for each the whole model is truncated, and the
            pair with the least divergence stays.
    """

    name: Literal["lems"] = "lems"
    needs: ClassVar[Needs] = Needs.SPECTRUM

    reference: float = Field(0.1, gt=0.0, lt=1.0)
    temperature: float = Field(0.6, gt=0.0)
    first_position: int = Field(256, ge=0)
    least: float = Field(0.3, ge=0.0, le=1.0)
    least_below_half: float = Field(0.1, ge=0.0, le=1.0)
    most: float = Field(0.95, gt=0.0, le=1.0)
    alpha: float = Field(0.0, ge=0.0)
    gamma: float = Field(0.0, ge=0.0)
    biases: tuple[tuple[NotNegative, NotNegative], ...] = ()

    @property
    def own_measurement(self) -> OwnMeasurement:
        """See :attr:`Allocation.own_measurement`."""
        return OwnMeasurement.FOR_EACH_SIZE if self.biases else OwnMeasurement.ONCE

    def measure(self, model: BlockwiseModel, measured: Measurements, wanted: Wanted) -> Measurements:
        """Measure the divergence of each linear, and that of the whole model for each bias if there are several."""
        sample = self.trial_sample(model)
        known = reference_divergences(
            sample, measured, wanted, self.reference, temperature=self.temperature, first=self.first_position
        )
        blocks = {ref.path: number for number, block in enumerate(model.blocks) for ref in block.linears}

        def biased(alpha: float, gamma: float) -> Measurements:
            biases = block_biases(len(model.blocks), alpha, gamma)
            own = {path: Trialled(known.get(path, 0.0), biases[number]) for path, number in blocks.items()}
            return replace(measured, linears=tuple(replace(x, own=own[x.path]) for x in measured.linears))

        found = [biased(alpha, gamma) for alpha, gamma in ((self.alpha, self.gamma), *self.biases)]
        losses = []
        for choice in found if self.biases else ():
            ranks = processes.give(self.ranks_within(choice.linears, wanted.budgets, wanted.layout))
            whole = trial_divergences(
                sample,
                measured.solutions,
                {},
                wanted.progress,
                ranks,
                temperature=self.temperature,
                first=self.first_position,
            )
            losses.append(whole.base)
        return found[losses.index(min(losses))] if losses else found[0]

    def own_seconds(self, steps: StepSeconds) -> float:
        """Return the seconds of one trial a linear, each from its block to the end, and of one whole run a bias."""
        runs = 2 * (1 + len(self.biases)) if self.biases else 0
        return self.trial_seconds(steps) + runs * self.run_seconds(steps)

    def own_streams(self, linears: int) -> int:
        """Return how many trials are carried along side by side."""
        return linears

    def choose(self, problem: RankBudget) -> Ranks:
        """Return the ranks with the least sum of errors."""
        errors = self.errors(problem)
        least = self.least if problem.keep >= BELOW_HALF else self.least_below_half
        allowed = {linear.path: self._allowed(problem, linear, least) for linear in problem.linears}
        smallest = sum(
            min(option.bytes for option, is_allowed in zip(problem.options[path], of_path, strict=True) if is_allowed)
            for path, of_path in allowed.items()
        )
        if smallest > problem.budget:  # ranks must be smaller than those that were published for such a budget
            return best_ranks(problem, errors)
        return best_ranks(
            problem,
            {
                path: [e if is_allowed else math.inf for e, is_allowed in zip(row, allowed[path], strict=True)]
                for path, row in errors.items()
            },
        )

    def _allowed(self, problem: RankBudget, linear: LayerStatistics, least: float) -> Sequence[bool]:
        rank = break_even_rank(linear, problem.layout)
        options = problem.options[linear.path]
        return [o.rank is None or least * rank <= o.rank < math.floor(self.most * rank + 1e-9) for o in options]

    def errors(self, problem: RankBudget) -> dict[str, list[float]]:
        """Return the error at each option of each linear, by path: ``b K t(r) / t(reference)``, and 0 for dense."""
        return scaled_losses(
            problem, relative_energy, lambda linear: linear.own.bias * linear.own.divergence, self.reference, LEAST_TAIL
        )

    def worth(self, problem: RankBudget) -> GainPerByte:
        """Return the error saved a byte."""
        return gain_per_byte(problem, finite_losses(self.errors(problem)))


def block_biases(blocks: int, alpha: float, gamma: float) -> list[float]:
    """Return by how much errors of each block count, for errors that grow on their way: from ``1 + gamma`` to 1.

    With ``c_k = sum_{j >= k} (j + 1)^-alpha`` over the blocks from k on, counted from 0, it is
    ``1 + gamma (c_k - c_min) / (c_max - c_min)``.

    Args:
        blocks: of the model.
        alpha: how fast it falls.
        gamma: how far the first one is above 1.
    """
    sums = [sum((j + 1) ** -alpha for j in range(k, blocks)) for k in range(blocks)]
    spread = sums[0] - sums[-1]
    return [1 + gamma * ((value - sums[-1]) / spread if spread else 0.0) for value in sums]
