"""What every layout answers: what a rank costs in stored bytes, and the layer that it is run by."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

from eckart.choice import Choice
from eckart.layers import FactoredLinear

BYTES_PER_NUMBER = 2  # `keep` counts in 16-bit numbers, whatever dtype a model is held in while it is compressed


def dense_bytes(out_features: int, in_features: int) -> int:
    """Return the stored bytes of a dense weight."""
    return BYTES_PER_NUMBER * out_features * in_features


class Structure(Choice):
    """A choice of how a weight (m, n) of rank r is laid out. None in place of a rank stands for dense."""

    layer: ClassVar[type[FactoredLinear]]

    @abstractmethod
    def numbers(self, out_features: int, in_features: int, rank: int | None) -> int:
        """Return how many parameters a weight of ``rank`` is stored as."""

    @abstractmethod
    def bytes(self, out_features: int, in_features: int, rank: int | None) -> int:
        """Return the stored bytes of a weight of ``rank``; they rise with it."""

    @abstractmethod
    def highest_rank(self, out_features: int, in_features: int) -> int:
        """Return the largest rank that can be laid out so; 0 if none can."""

    def largest_rank(self, out_features: int, in_features: int, budget: int) -> int | None:
        """Return the largest rank whose factors take at most ``budget`` bytes and fewer than the dense weight.

        At least 1. None where the dense weight itself is within the budget, or where not even rank 1 would save
        anything.
        """
        dense = dense_bytes(out_features, in_features)
        if budget >= dense:
            return None
        low, high = 0, self.highest_rank(out_features, in_features)
        if high == 0 or self.bytes(out_features, in_features, 1) >= dense:
            return None
        while low < high:  # the bytes of `low` are within the budget, those above `high` are not
            middle = (low + high + 1) // 2
            if self.bytes(out_features, in_features, middle) <= budget:
                low = middle
            else:
                high = middle - 1
        return max(low, 1)

    def rank_of_share(self, out_features: int, in_features: int, share: float) -> int | None:
        """Return the largest rank whose factors take at most ``share`` of the dense bytes; None (dense) from 1 on."""
        # The floor must not fall one byte short because 0.6 * 10 is 5.999... in binary.
        budget = math.floor(share * dense_bytes(out_features, in_features) + 1e-6)
        return self.largest_rank(out_features, in_features, budget)
