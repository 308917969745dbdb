"""Importance: AdaSVD's adaptive compression ratio (arXiv 2502.01403, section 3.3)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from eckart.methods.allocation.by_shares import ByShares
from eckart.methods.allocation.rank_budget import RankBudget
from eckart.methods.sensitivity.layer_statistics import Needs


class Importance(ByShares):
    """The share that a layer keeps goes by how alike its input and its output are.

    ``share = minimum + I / mean(I) (keep - minimum)`` with I the cosine of input and output. The cosine needs both to
    be of one width, which holds for a block's hidden states and not for most of its linears: so I is that of the block.

    Attributes:
        minimum: share that every linear keeps, as a part of ``keep``; the paper gives no number.
    """

    name: Literal["importance"] = "importance"
    needs: ClassVar[Needs] = Needs.SIMILARITY

    minimum: float = Field(0.5, ge=0.0, le=1.0)

    def shares(self, problem: RankBudget) -> dict[str, float]:
        """Return the share of its bytes that each linear keeps, by path; between 0 and 1."""
        least = self.minimum * problem.keep
        # A block that turns its input round has a negative cosine: as unimportant as can be in this measure.
        similarities = {linear.path: max(linear.similarity or 0.0, 0.0) for linear in problem.linears}
        mean = sum(similarities.values()) / len(similarities)
        if mean == 0:
            return dict.fromkeys(similarities, problem.keep)
        return {path: min(least + value / mean * (problem.keep - least), 1.0) for path, value in similarities.items()}
