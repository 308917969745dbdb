"""Zero-sum: ZS-SVD's selection of components (arXiv 2602.02848, section 3)."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.methods.allocation.base import Allocation, OwnMeasurement, Wanted
from eckart.methods.allocation.iterative_truncation import truncate_in_stages
from eckart.methods.allocation.rank_budget import RankBudget, Ranks
from eckart.methods.sensitivity.layer_statistics import LayerStatistics, Needs
from eckart.methods.sensitivity.measurements import Measurements
from eckart.methods.sensitivity.request import Request


class ZeroSum(Allocation):
    """Components go one by one so that the sum of the predicted changes of the loss stays near zero.

    Only the smallest component that a linear still has can go. If the running sum is at most zero, the one with the
    smallest rise of the loss goes next, else the one with the smallest fall. Unlike the published code, a linear is
    credited the exact bytes that a step frees, also on the step from dense to factored; and nothing is added to the
    second moment of the inputs, where that code adds 1e-4 to its diagonal, whatever the size of the inputs. In a small
    model that is more than most of the eigenvalues of some linears, and changes their components and ranks.

    Attributes:
        gradient_samples: calibration samples whose gradient is taken; the paper takes 1.
        stages: how often ranks are selected; between two selections the truncated weights are moved along the gradient
            to where, to first order, they lose nothing, and measured again. The paper's "5x" are 6 stages.
    """

    name: Literal["zero-sum"] = "zero-sum"
    needs: ClassVar[Needs] = Needs.SPECTRUM | Needs.FIRST_ORDER

    gradient_samples: int = Field(1, ge=1)
    stages: int = Field(1, ge=1)

    @property
    def own_measurement(self) -> OwnMeasurement:
        """Nothing in one stage; in several all but the first."""
        return OwnMeasurement.FOR_EACH_SIZE if self.stages > 1 else OwnMeasurement.NONE

    @property
    def label(self) -> str:
        """See :attr:`Allocation.label`."""
        return repr(self.name) + (" in stages" if self.stages > 1 else "")

    @property
    def truncates(self) -> bool:
        """Whether gradients are taken at truncated weights."""
        return self.stages > 1

    @property
    def changes_weights(self) -> bool:
        """Whether weights are moved between two stages."""
        return self.stages > 1

    @property
    def walks(self) -> int:
        """One a stage."""
        return self.stages

    def ask(self, request: Request) -> Request:
        """Ask for gradients of so many samples, and for the bases of what a stage truncates."""
        return replace(super().ask(request), gradient_samples=self.gradient_samples, keep_bases=self.stages > 1)

    def measure(self, model: BlockwiseModel, measured: Measurements, wanted: Wanted) -> Measurements:
        """Measure all stages behind the first."""
        return measured if self.stages == 1 else truncate_in_stages(model, self, measured, wanted)

    def own_bytes(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return what truncated and corrected weights take, in float32."""
        return 4 * 3 * sum(rows * columns for rows, columns in shapes) if self.stages > 1 else 0

    def choose(self, problem: RankBudget) -> Ranks:
        """Remove steps until the budget is met."""
        return select_zero_sum(problem)


def select_zero_sum(problem: RankBudget) -> Ranks:
    """Return the ranks by two heaps, of steps that raise the loss and of steps that lower it, smallest change first.

    A step is one component, or with ``problem.multiple`` above 1 all down to the next multiple. Of equal changes
    the one that was found first goes first. Ranks beyond what saves bytes are returned as None.
    """
    steps = {linear.path: _Steps(problem, linear) for linear in problem.linears}
    order = itertools.count()
    rising: list[tuple[float, int, str]] = []
    falling: list[tuple[float, int, str]] = []

    def push(path: str) -> None:
        change = steps[path].change
        if change is not None:
            heapq.heappush(rising if change >= 0 else falling, (abs(change), next(order), path))

    for path in steps:
        push(path)
    total = sum(step.cost for step in steps.values())
    balance = 0.0
    while total > problem.budget and (rising or falling):
        first, other = (rising, falling) if balance <= 0 else (falling, rising)
        _, _, path = heapq.heappop(first or other)
        step = steps[path]
        assert step.change is not None
        balance += step.change
        total -= step.take()
        push(path)
    return {linear.path: steps[linear.path].rank_or_dense for linear in problem.linears}


class _Steps:
    """The steps of one linear from its full rank down."""

    def __init__(self, problem: RankBudget, linear: LayerStatistics) -> None:
        assert linear.first_order is not None
        self._problem, self._linear = problem, linear
        self._changes = linear.first_order
        self._largest = problem.largest_rank(linear)
        smallest = problem.options[linear.path][0].rank
        full = len(self._changes)
        below = range(smallest or full, full, problem.multiple)  # a linear without a factored option takes no step
        self._ranks = [*below, full]

    @property
    def cost(self) -> int:
        """Bytes at the present rank."""
        return self._problem.cost(self._linear, self._ranks[-1])

    @property
    def change(self) -> float | None:
        """Predicted change of the loss by the next step; None if there is none."""
        return float(self._changes[self._ranks[-2] : self._ranks[-1]].sum()) if len(self._ranks) > 1 else None

    def take(self) -> int:
        """Go one step down and return the bytes that it frees."""
        before = self.cost
        self._ranks.pop()
        return before - self.cost

    @property
    def rank_or_dense(self) -> int | None:
        """The present rank, or None where the dense weight takes no more bytes."""
        return self._ranks[-1] if self._ranks[-1] <= self._largest else None
