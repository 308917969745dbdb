"""What every allocator answers: a rank for each linear, of evidence that was measured on the original model."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from eckart.methods.allocation.fit_to_budget import GainPerByte, fit_to_budget
from eckart.methods.allocation.rank_budget import LayerStatistics, Needs, RankBudget, Ranks
from eckart.methods.choice import Choice
from eckart.methods.layout import Layout, dense_bytes
from eckart.methods.metric import Fisher


class Allocation(Choice):
    """A choice of which rank goes where.

    Attributes:
        multiple: ranks are multiples of this; matrix products are fast at multiples of 8.
        floor: least rank of a factored linear, as a share of the largest one that saves bytes.
        fused_groups: whether linears that share an input are all factored or all dense, as serving engines want them.
        fill_budget: whether ranks rise, one step at a time, while the budget has room for a step. Papers round ranks
            down and stop there, and so do the recipes that are named after them: on a small model one rank of 210
            has made 159 of a perplexity of 643.
    """

    needs: ClassVar[Needs] = Needs.NONE

    multiple: int = Field(8, ge=1)
    floor: float = Field(0.0, ge=0.0, le=1.0)
    fused_groups: bool = False
    fill_budget: bool = True

    @property
    def needs_data(self) -> bool:
        """Whether calibration tokens are looked at, if the objective looks at any."""
        return self.needs not in (Needs.NONE, Needs.SPECTRUM)

    @property
    def curvature_metric(self) -> Fisher | None:
        """How gradients of outputs are measured for :attr:`Needs.CURVATURE`, unless the objective has a metric.

        By a field called ``metric`` if there is one, else as in the class :class:`eckart.methods.metric.Fisher` by
        default.
        """
        if Needs.CURVATURE not in self.needs:
            return None
        chosen = getattr(self, "metric", None)
        return chosen if isinstance(chosen, Fisher) else Fisher()

    def ranks(self, linears: tuple[LayerStatistics, ...], keep: float, layout: Layout) -> dict[str, int | None]:
        """Return a rank for each linear by path, or None where it stays dense.

        Their bytes are at most the budget. With :attr:`fill_budget` no linear could take one step more within it.

        Args:
            linears: with the evidence that :attr:`needs` asks for.
            keep: bytes to keep, as a share of the dense 16-bit bytes, in (0, 1].
            layout: what a rank costs, and a weight that is not factored.

        Raises:
            EckartError: the smallest ranks allowed exceed the budget.
        """
        problem = RankBudget(linears, keep, layout, self.multiple, self.floor, self.fused_groups)
        if problem.budget >= problem.whole_bytes:
            return {linear.path: None for linear in linears}
        problem.check()
        return fit_to_budget(problem, self.choose(problem), self.worth(problem), fill=self.fill_budget)

    @abstractmethod
    def choose(self, problem: RankBudget) -> Ranks:
        """Return the ranks by the allocator's own rule, which need not be options nor meet the budget exactly."""

    def worth(self, problem: RankBudget) -> GainPerByte:
        """Return what a step is worth when the choice is brought to the budget: relative energy a byte."""
        return gain_per_byte(problem, problem.losses(relative_energy))


def relative_energy(linear: LayerStatistics) -> Tensor:
    """Return the share of a linear's output energy that each component carries, (p,)."""
    assert linear.energy is not None, f"{linear.path} has no spectrum"
    total = linear.energy.sum() if linear.output_energy is None else linear.output_energy
    return linear.energy / total if total > 0 else linear.energy


def gain_per_byte(problem: RankBudget, losses: dict[str, list[float]]) -> GainPerByte:
    """Return the loss saved a byte, for a loss at each option of each linear."""

    def worth(path: str, low: int, high: int) -> float:
        options = problem.options[path]
        return (losses[path][low] - losses[path][high]) / (options[high].bytes - options[low].bytes)

    return worth


def gain_per_byte_of_shares(problem: RankBudget, shares: dict[str, float]) -> GainPerByte:
    """Return how far a step starts below the share of its 16-bit bytes that each linear was to get, by path."""

    dense = {linear.path: dense_bytes(*linear.shape) for linear in problem.linears}

    def worth(path: str, low: int, high: int) -> float:
        options = problem.options[path]
        return shares[path] - (options[low].bytes + options[high].bytes) / (2 * dense[path])

    return worth
