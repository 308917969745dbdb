"""Tolerance: one relative error of the plain weights for all linears (PGSVD, arXiv 2510.05544; COMPOT, 2602.15200)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.device import moment_device
from eckart.layers import weight_matrix
from eckart.maths.stopwatch import random_matrix, seconds_of
from eckart.methods.allocation.base import Allocation, OwnMeasurement, Wanted
from eckart.methods.allocation.fit_to_budget import GainPerByte
from eckart.methods.allocation.rank_budget import RankBudget, Ranks
from eckart.methods.sensitivity.cost import StepSeconds
from eckart.methods.sensitivity.layer_statistics import LayerStatistics
from eckart.methods.sensitivity.measurements import Measurements

TIMED_SIDE = 256  # of a matrix whose singular values are timed


class Tolerance(Allocation):
    """Each linear gets the smallest rank r with ``||W - W_r|| / ||W||_F <= e``, e being as small as the budget allows.

    The errors are those of the weights alone, whatever the objective is: no token is looked at. So the largest relative
    error of all linears is as small as it can be. A budget has one tolerance: towers with sizes of their own have one
    each, as the paper has two for a model of two towers. A linear whose rank would save nothing stays dense, which the
    paper does not say. The paper then fits both factors to activations by 10 rounds of alternating least squares; their
    limit is the closed answer of the objective ``input-aware``, so that they are not here.

    With the spectral norm above the fraction the error is ``s_{r+1} / ||W||_F``: the singular values of all
    ``W / ||W||_F`` lie in one pool, and those above one cut stay. That is COMPOT's rule for the sizes of dictionaries
    (arXiv 2602.15200), with a guard for each matrix below and above. Its guards are not known to us, nor how it gets
    from the values that stay to the size of a dictionary. Here, as our guess, a dictionary has as many atoms as values
    of its weight stay; :attr:`floor` is the guard below, and ``most`` the one above.

    Attributes:
        norm: of what is left out: ``frobenius`` as in PGSVD, ``spectral`` as in COMPOT.
        most: largest rank of a factored linear, as a share of the largest one that saves bytes. At 1 there is none, and
            a linear may stay dense. Where the budget is to be filled, steps beyond it come last.
    """

    name: Literal["tolerance"] = "tolerance"

    norm: Literal["frobenius", "spectral"] = "frobenius"
    most: float = Field(1.0, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _guards_leave_a_rank(self) -> Self:
        if self.floor > self.most:
            raise ValueError(f"floor is at most most; found {self.floor:g} above {self.most:g}")
        return self

    @property
    def needs_data(self) -> bool:
        """Weights alone are looked at."""
        return False

    @property
    def own_measurement(self) -> OwnMeasurement:
        """See :attr:`Allocation.own_measurement`."""
        return OwnMeasurement.ONCE

    def measure(self, model: BlockwiseModel, measured: Measurements, wanted: Wanted) -> Measurements:
        """Find the relative error of each weight at each rank; a linear's are kept as a tensor (min(m, n) + 1,)."""
        errors = relative_errors if self.norm == "frobenius" else spectral_errors
        device = moment_device(model.device)
        found: dict[str, Tensor] = {}
        for number, block in enumerate(model.blocks):
            with model.onload(number):
                for ref in block.linears:
                    weight = weight_matrix(block.module.get_submodule(ref.name)).detach().to(device, torch.float64)
                    found[ref.path] = errors(torch.linalg.svdvals(weight)).cpu()
            wanted.progress(number + 1, len(model.blocks))
        return replace(measured, linears=tuple(replace(x, own=found[x.path]) for x in measured.linears))

    def own_seconds(self, steps: StepSeconds) -> float:
        """Return the seconds of the singular values of all weights."""
        matrix = random_matrix(TIMED_SIDE, TIMED_SIDE).to(moment_device(steps.device)).double()
        once = seconds_of(lambda: torch.linalg.svdvals(matrix), steps.device) / TIMED_SIDE**3
        return once * sum(rows * columns * min(rows, columns) for rows, columns in steps.shapes) * steps.blocks

    def choose(self, problem: RankBudget) -> Ranks:
        """Return the ranks of the least tolerance that meets the budget; the smallest ranks if none does."""
        tolerances = sorted({float(error) for linear in problem.linears for error in linear.own})
        low, high = 0, len(tolerances) - 1
        while low < high:  # all below `low` take too many bytes
            middle = (low + high) // 2
            ranks = self.ranks_of(problem, tolerances[middle])
            if sum(problem.cost(linear, ranks[linear.path]) for linear in problem.linears) <= problem.budget:
                high = middle
            else:
                low = middle + 1
        return self.ranks_of(problem, tolerances[low])

    def ranks_of(self, problem: RankBudget, tolerance: float) -> dict[str, int]:
        """Return the smallest rank at which the error of each linear is at most ``tolerance``, within the guards."""
        return {linear.path: self._guarded(problem, linear, tolerance) for linear in problem.linears}

    def _guarded(self, problem: RankBudget, linear: LayerStatistics, tolerance: float) -> int:
        least = 1 if problem.floor == 0 else problem.options[linear.path][0].rank or 1
        rank = max(int((linear.own > tolerance).sum()), least)
        return rank if self.most == 1 else min(rank, max(self._most_of(problem, linear), least))

    def _most_of(self, problem: RankBudget, linear: LayerStatistics) -> int:
        # The floor must not fall one short because 0.7 * 10 is 6.999... in binary.
        return math.floor(self.most * problem.largest_rank(linear) + 1e-9)

    def worth(self, problem: RankBudget) -> GainPerByte:
        """Return the error in front of a step: the largest one falls first, and what is beyond a guard last."""
        own = {linear.path: linear for linear in problem.linears}

        def worth(path: str, low: int, high: int) -> float:
            beyond = problem.options[path][high].rank
            if self.most < 1 and (beyond is None or beyond > self._most_of(problem, own[path])):
                return 0.0
            return _error(own[path], problem.options[path][low].rank)

        return worth


def _error(linear: LayerStatistics, rank: int | None) -> float:
    return 0.0 if rank is None else float(linear.own[min(rank, len(linear.own) - 1)])


def relative_errors(singular_values: Tensor) -> Tensor:
    """Return ``||W - W_r|| / ||W||`` for r from 0 to p, (p + 1,) float64; zeros for a weight of zeros.

    Args:
        singular_values: of W, (p,) float64, falling.
    """
    # Summed from the smallest one up, so that small errors are not lost beside large values.
    tails = singular_values.square().flip(0).cumsum(0).flip(0)
    errors = torch.cat([tails, tails.new_zeros(1)])
    return (errors / errors[0]).sqrt() if errors[0] > 0 else errors


def spectral_errors(singular_values: Tensor) -> Tensor:
    """Return ``||W - W_r||_2 / ||W||_F = s_{r+1} / ||W||_F`` for r from 0 to p; as :func:`relative_errors`."""
    errors = torch.cat([singular_values, singular_values.new_zeros(1)])
    whole = singular_values.norm()
    return errors / whole if whole > 0 else errors
