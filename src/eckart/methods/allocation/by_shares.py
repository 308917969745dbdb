"""Allocations that say which share of its bytes each linear keeps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from eckart.methods.allocation.base import Allocation, gain_per_byte_of_shares
from eckart.methods.allocation.fit_to_budget import GainPerByte
from eckart.methods.allocation.rank_budget import RankBudget, Ranks
from eckart.methods.sensitivity.layer_statistics import LayerStatistics


class ByShares(Allocation):
    """The rank of a linear is what fits into its share."""

    @abstractmethod
    def shares(self, problem: RankBudget) -> dict[str, float]:
        """Return the share of its bytes that each linear keeps, by path; between 0 and 1."""

    def choose(self, problem: RankBudget) -> Ranks:
        """Return the rank of each linear's share."""
        shares = self.shares(problem)
        return {linear.path: problem.rank_of_share(linear, shares[linear.path]) for linear in problem.linears}

    def worth(self, problem: RankBudget) -> GainPerByte:
        """Return how far a step starts below its linear's share."""
        return gain_per_byte_of_shares(problem, self.shares(problem))


def of_each_kind(linears: Iterable[LayerStatistics]) -> list[list[LayerStatistics]]:
    """Return linears apart by their kind, kinds in the order in which they are met."""
    kinds: dict[str, list[LayerStatistics]] = {}
    for linear in linears:
        kinds.setdefault(linear.kind, []).append(linear)
    return list(kinds.values())
