"""Uniform: every linear keeps the same share of its bytes."""

from __future__ import annotations

from typing import Literal

from eckart.methods.allocation.base import Allocation, gain_per_byte_of_shares
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
        return {linear.path: problem.rank_of_share(linear, problem.keep) for linear in problem.linears}

    def worth(self, problem: RankBudget) -> GainPerByte:
        """Return how far a step starts below the share."""
        return gain_per_byte_of_shares(problem, {linear.path: problem.keep for linear in problem.linears})
