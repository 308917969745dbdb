"""Masks: trained ranks of monotone masks that may stay dense, after ARA (arXiv 2510.19389)."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pydantic import Field

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.methods.allocation.base import OwnMeasurement, Wanted, relative_energy
from eckart.methods.allocation.exact import best_ranks
from eckart.methods.allocation.mask_training import train_masks
from eckart.methods.allocation.rank_budget import RankBudget, Ranks
from eckart.methods.allocation.trials import trial_divergences
from eckart.methods.allocation.with_trials import WithTrials
from eckart.methods.sensitivity.cost import BACKWARD, StepSeconds
from eckart.methods.sensitivity.layer_statistics import LayerStatistics, Needs
from eckart.methods.sensitivity.measurements import Measurements

SHARES = tuple(1 - number / 20 for number in range(21))  # of the trained ranks, below which none is chosen


@dataclass(frozen=True)
class Trained:
    """What was found of a linear.

    Attributes:
        rank: that was trained.
        divergences: of the model with it alone at that rank and at others, by rank, in nats a prediction.
    """

    rank: int
    divergences: dict[int, float]


class Masks(WithTrials):
    """A mask over the components of each linear is trained with the model's divergence and a budget of bytes.

    Masks never rise along a spectrum, and each trained number moves the whole mask (:mod:`eckart.maths.monotone_mask`).
    Forwards they are 0 or 1, backwards the soft ones. Where a rank would take as many bytes as the weight, the weight
    itself is run. So a linear can become dense, and come back.

    The paper says that, and that a guidance term pushes linears near break-even to one side. Its formulas, its numbers
    and the guidance are not known. So the loss, all numbers below and the start (the uniform ranks) are our proposal,
    and in place of the guidance there is a choice behind the training: each linear takes its trained rank, the largest
    rank that saves bytes, or its dense weight. What each costs is one measured divergence, with that linear alone
    truncated; the least sum within the budget is found by dynamic programming. If the trained ranks exceed the budget,
    ranks somewhat below them are options, too. Their divergence is taken to grow as the energy does that they lack.

    Attributes:
        steps: of the training, one sample each.
        bins: trained numbers a linear.
        learning_rate: of Adam.
        penalty: on the squared distance of the share of bytes from the budget.
        training_samples: calibration samples that are trained on, in turn.
        training_length: tokens of each that are looked at; None for all.
    """

    name: Literal["masks"] = "masks"
    needs: ClassVar[Needs] = Needs.SPECTRUM

    steps: int = Field(300, ge=1)
    bins: int = Field(100, ge=2)
    learning_rate: float = Field(0.05, gt=0.0)
    penalty: float = Field(100.0, ge=0.0)
    training_samples: int = Field(256, ge=1)
    training_length: int | None = Field(None, ge=2)

    @property
    def own_measurement(self) -> OwnMeasurement:
        """See :attr:`Allocation.own_measurement`."""
        return OwnMeasurement.FOR_EACH_SIZE

    @property
    def truncates_outputs(self) -> bool:
        """See :attr:`Allocation.truncates_outputs`."""
        return True

    def measure(self, model: BlockwiseModel, measured: Measurements, wanted: Wanted) -> Measurements:
        """Train the masks, and measure the divergences at their ranks and at the largest ones that save bytes."""
        # Steps are samples one after another: each process takes all of them itself.
        sample = model.cropped(self.training_samples, self.training_length).whole()
        ranks = train_masks(sample, measured.solutions, self, wanted.budgets, wanted.layout, wanted.progress)
        tried: dict[str, list[int]] = {}
        for size, members in wanted.budgets.split(measured.linears):
            if size.keep is not None:
                problem = self.problem(tuple(members), size.keep, wanted.layout, size.option)
                tried |= {linear.path: _tried(problem, linear, ranks[linear.path]) for linear in members}
        sample = self.trial_sample(model)
        found = trial_divergences(sample, measured.solutions, tried, wanted.progress).trials
        own = {
            path: Trained(rank, {r: loss for r, loss in found.get(path, {}).items() if r is not None})
            for path, rank in ranks.items()
        }
        return replace(measured, linears=tuple(replace(x, own=own[x.path]) for x in measured.linears))

    def own_seconds(self, steps: StepSeconds) -> float:
        """Return the seconds of the training, and of two trials a linear."""
        _, length = steps.crop(self.training_samples, self.training_length)
        share = length / steps.batch_tokens
        training = self.steps * share * ((2 + BACKWARD) * steps.block * steps.blocks + (1 + BACKWARD) * steps.head)
        return training + 2 * self.trial_seconds(steps)

    def own_streams(self, linears: int) -> int:
        """Return how many trials are carried along side by side."""
        return 2 * linears

    def choose(self, problem: RankBudget) -> Ranks:
        """Return the options with the least sum of divergences, as near to the trained ranks as the budget allows."""
        for share in SHARES:
            losses = {linear.path: _losses(problem, linear, share) for linear in problem.linears}
            least = sum(
                min(option.bytes for option, loss in zip(options, losses[path], strict=True) if loss is not None)
                for path, options in problem.options.items()
            )
            if least <= problem.budget:
                break
        return best_ranks(
            problem, {path: [math.inf if loss is None else loss for loss in row] for path, row in losses.items()}
        )


def _option(problem: RankBudget, linear: LayerStatistics, rank: int) -> int | None:
    """Return the largest rank among a linear's options that is at most ``rank``; the smallest one if none is."""
    ranks = [option.rank for option in problem.options[linear.path] if option.rank is not None]
    return ranks[max(bisect_right(ranks, rank) - 1, 0)] if ranks else None


def _tried(problem: RankBudget, linear: LayerStatistics, rank: int) -> list[int]:
    largest = _option(problem, linear, min(linear.shape))
    found = (_option(problem, linear, rank), largest)
    return list(dict.fromkeys(rank for rank in found if rank is not None))


def _losses(problem: RankBudget, linear: LayerStatistics, share: float) -> list[float | None]:
    """Return the divergence at each option of a linear; None where it is no choice.

    Args:
        problem: its options.
        linear: what was found of it is known.
        share: of its trained rank, from which options are choices.
    """
    own: Trained = linear.own
    trained = _option(problem, linear, own.rank)
    carried = relative_energy(linear)

    def tail(rank: int) -> float:
        return float(carried[rank:].sum())

    found: list[float | None] = []
    for option in problem.options[linear.path]:
        rank = option.rank
        if rank is None:
            found.append(0.0)
        elif rank in own.divergences:
            found.append(own.divergences[rank])
        elif trained is not None and share * trained <= rank <= trained:
            known, at_trained = own.divergences.get(trained, 0.0), tail(trained)
            found.append(known * tail(rank) / at_trained if at_trained > 0 else known)
        else:
            found.append(None)
    return found
