"""Block influence: MoDeGPT's shares of what is removed (arXiv 2408.09632, section 3.5 and theorem 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from eckart.methods.allocation.by_shares import ByShares
from eckart.methods.allocation.rank_budget import RankBudget
from eckart.methods.sensitivity.layer_statistics import Needs


class BlockInfluence(ByShares):
    """Blocks that change their hidden states less lose more: one share for all linears of a block.

    With the influence ``s = 1 - cosine`` of what is in front of a block and behind it, the mean over tokens, the
    removed shares ``phi`` maximise ``sum of s (1 - phi) + temperature * entropy(phi)`` at their mean:

        phi_l = L mean(phi) softmax(-s / temperature)_l.

    What is beyond the most that a block may lose goes to the others, in proportion to their part of the softmax, again
    and again until none is above it. Where blocks differ in size, the mean is that over bytes.

    Attributes:
        temperature: of the softmax; a large one gives uniform shares. The paper tunes it for each model: 0.067 to
            0.076 are known, and ours is between them.
        most: the largest share that a block may lose; 0.8 in a re-implementation.
    """

    name: Literal["block-influence"] = "block-influence"
    needs: ClassVar[Needs] = Needs.SIMILARITY

    temperature: float = Field(0.07, gt=0.0)
    most: float = Field(0.8, gt=0.0, le=1.0)

    def shares(self, problem: RankBudget) -> dict[str, float]:
        """Return the share of its bytes that each linear keeps, by path; between 0 and 1."""
        influence: dict[str, float] = {}
        sizes: dict[str, float] = {}
        for linear in problem.linears:
            influence[linear.block] = 1.0 - (1.0 if linear.similarity is None else linear.similarity)
            sizes[linear.block] = sizes.get(linear.block, 0.0) + linear.dense_bytes
        removed = removed_shares(
            list(influence.values()), 1 - problem.keep, self.temperature, self.most, list(sizes.values())
        )
        kept = {block: 1 - share for block, share in zip(influence, removed, strict=True)}
        return {linear.path: kept[linear.block] for linear in problem.linears}


def removed_shares(
    influence: Sequence[float],
    mean: float,
    temperature: float,
    most: float = 1.0,
    sizes: Sequence[float] | None = None,
) -> list[float]:
    """Return the share that each block loses, at most ``most`` or, where that is more, their mean.

    Args:
        influence: of each block.
        mean: of the shares, over sizes.
        temperature: of the softmax.
        most: that a block may lose.
        sizes: of the blocks; None for equal ones.
    """
    sizes = sizes or [1.0] * len(influence)
    most, least = max(most, mean), min(influence)
    weights = [math.exp(-(s - least) / temperature) for s in influence]
    found = [0.0] * len(influence)
    full: set[int] = set()
    while True:
        open_ = [n for n in range(len(influence)) if n not in full]
        left = mean * sum(sizes) - most * sum(sizes[n] for n in full)
        total = sum(weights[n] * sizes[n] for n in open_)
        if not open_ or total <= 0:
            # Beyond what numbers tell apart: what is left is shared evenly.
            for n in open_:
                found[n] = min(most, left / sum(sizes[m] for m in open_))
            return found
        for n in open_:
            found[n] = left * weights[n] / total
        above = {n for n in open_ if found[n] > most + 1e-12}
        if not above:
            return found
        for n in above:
            found[n] = most
        full |= above
