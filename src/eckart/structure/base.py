"""What every structure answers: which matrices a weight of some rank is stored as, and the layer that it is run by."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from eckart.choice import Choice
from eckart.layers import FactoredLinear


class Structure(Choice):
    """A choice of how a weight (m, n) of rank r is laid out."""

    layer: ClassVar[type[FactoredLinear]]

    def matrices(self, out_features: int, in_features: int, rank: int) -> list[tuple[int, int]]:
        """Return the (rows, columns) of the matrices that are stored."""
        shapes = self.layer.shapes(out_features, in_features, rank)
        return [(shape.out_features, shape.in_features) for shape in shapes]

    def index_bytes(self, out_features: int) -> int:
        """Return the stored bytes of what is no matrix of numbers."""
        return 0

    @abstractmethod
    def highest_rank(self, out_features: int, in_features: int) -> int:
        """Return the largest rank that can be laid out so; 0 if none can."""

    def numbers(self, out_features: int, in_features: int, rank: int | None) -> int:
        """Return how many numbers a weight of ``rank`` is stored as; None stands for dense."""
        if rank is None:
            return out_features * in_features
        return sum(rows * columns for rows, columns in self.matrices(out_features, in_features, rank))
