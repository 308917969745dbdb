"""Truncation loss: SVD-LLM V2's allocation (arXiv 2503.12340, section 3.1)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from eckart.methods.allocation.by_shares import ByShares, of_each_kind
from eckart.methods.allocation.rank_budget import RankBudget
from eckart.methods.sensitivity.layer_statistics import LayerStatistics, Needs


class TruncationLoss(ByShares):
    """Among linears of one kind, what is removed goes by ``1 / log(L)``.

    L is ``||W X - W' X||`` over all calibration tokens at the uniform rank. Of N linears of a kind, linear j loses the
    share ``N R (1 / log L_j) / sum_i 1 / log L_i`` of its bytes, R being the share that all lose. The paper says
    nothing about losses for which the logarithm is not positive; here L is taken to be at least e.
    """

    name: Literal["truncation-loss"] = "truncation-loss"
    needs: ClassVar[Needs] = Needs.SPECTRUM

    def shares(self, problem: RankBudget) -> dict[str, float]:
        """Return the share of its bytes that each linear keeps, by path; between 0 and 1."""
        shares = {}
        for members in of_each_kind(problem.linears):
            weights = [1 / math.log(max(self._loss(problem, linear), math.e)) for linear in members]
            for linear, weight in zip(members, weights, strict=True):
                removed = len(members) * (1 - problem.keep) * weight / sum(weights)
                shares[linear.path] = min(max(1 - removed, 0.0), 1.0)
        return shares

    def _loss(self, problem: RankBudget, linear: LayerStatistics) -> float:
        assert linear.energy is not None
        rank = problem.rank_of_share(linear, problem.keep)
        return 0.0 if rank is None else math.sqrt(float(linear.energy[rank:].sum()) * linear.tokens)
