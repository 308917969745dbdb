"""Search: ASVD's sensitivity-based search of truncation ranks (arXiv 2312.05821, section 3.4)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from eckart.methods.allocation.base import Allocation
from eckart.methods.allocation.rank_budget import Needs, RankBudget, Ranks


class Search(Allocation):
    """Every linear is truncated alone, at a few shares of its bytes, and the model's loss is measured.

    All pairs of a linear and a share are sorted by that loss. A cut through the list allows the pairs below it; each
    linear takes the smallest share allowed to it, or stays dense. The cut is as low in loss as the budget permits; the
    bisection of the published code may stop above it. That code also searches and truncates the model's head, and
    decomposes with random sketches; here only the linears of the blocks are truncated, with exact decompositions.

    Attributes:
        shares: that are tried.
        trial_samples: calibration samples on which the loss is measured; the paper takes 32.
        trial_length: tokens of each that are looked at; None for all.
    """

    name: Literal["search"] = "search"
    needs: ClassVar[Needs] = Needs.SPECTRUM | Needs.TRIALS

    shares: tuple[float, ...] = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    trial_samples: int = Field(32, ge=1)
    trial_length: int | None = Field(None, ge=2)

    def choose(self, problem: RankBudget) -> Ranks:
        """Return the ranks below the lowest cut that meets the budget, or below the highest if none does."""
        pairs = sorted(
            (loss, index, rank)
            for index, linear in enumerate(problem.linears)
            for rank, loss in (linear.trials or {}).items()
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
