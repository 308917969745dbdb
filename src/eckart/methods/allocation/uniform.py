"""Uniform: every linear keeps the same share of its bytes."""

from __future__ import annotations

from typing import Literal

from eckart.methods.allocation.base import Allocation, uniform_choice, uniform_worth
from eckart.methods.allocation.fit_to_budget import GainPerByte
from eckart.methods.allocation.rank_budget import RankBudget, Ranks


class Uniform(Allocation):
    """The rank of each linear is the largest that keeps its share: ``floor(keep m n / (m + n))`` for two factors.

    If the budget is filled, what the rounding leaves of it goes, step by step, to the linears that it left furthest
    behind.
    """

    name: Literal["uniform"] = "uniform"

    def choose(self, problem: RankBudget) -> Ranks:
        """Return the rank of the same share for all."""
        return uniform_choice(problem)

    def worth(self, problem: RankBudget) -> GainPerByte:
        """Return how far a step starts below the share."""
        return uniform_worth(problem)
