"""How a low-rank weight is laid out, and what a rank then costs in stored bytes."""

from __future__ import annotations

import math
from typing import Literal

from eckart.choice import Choice

BYTES_PER_NUMBER = 2  # `keep` counts in 16-bit numbers, whatever dtype a model is held in while it is compressed


def dense_bytes(out_features: int, in_features: int) -> int:
    """Return the stored bytes of a dense weight."""
    return BYTES_PER_NUMBER * out_features * in_features


class TwoFactor(Choice):
    """Two factors, (m, r) and (r, n): r (m + n) numbers."""

    name: Literal["two-factor"] = "two-factor"

    def numbers(self, out_features: int, in_features: int, rank: int | None) -> int:
        """Return how many numbers a weight of ``rank`` is stored as; None stands for dense."""
        return out_features * in_features if rank is None else rank * (out_features + in_features)

    def bytes(self, out_features: int, in_features: int, rank: int | None) -> int:
        """Return the stored bytes of a weight of ``rank``; None stands for dense."""
        return BYTES_PER_NUMBER * self.numbers(out_features, in_features, rank)

    def largest_rank(self, out_features: int, in_features: int, budget: int) -> int | None:
        """Return the largest rank whose factors take at most ``budget`` bytes and fewer than the dense weight.

        None where the dense weight itself is within the budget, or where not even rank 1 would save anything.
        """
        if budget >= dense_bytes(out_features, in_features):
            return None
        rank = budget // (BYTES_PER_NUMBER * (out_features + in_features))
        dense_is_cheaper = self.bytes(out_features, in_features, 1) >= dense_bytes(out_features, in_features)
        return None if dense_is_cheaper else max(rank, 1)

    def rank_of_share(self, out_features: int, in_features: int, share: float) -> int | None:
        """Return the largest rank whose factors take at most ``share`` of the dense bytes; None (dense) from 1 on."""
        # The floor must not fall one byte short because 0.6 * 10 is 5.999... in binary.
        budget = math.floor(share * dense_bytes(out_features, in_features) + 1e-6)
        return self.largest_rank(out_features, in_features, budget)
