"""What every precision answers: how numbers are rounded, and what a matrix then takes."""

from __future__ import annotations

import math

from eckart.maths.quantization import QuantScheme
from eckart.methods.choice import Choice


class Precision(Choice):
    """A choice of how the numbers of a matrix are stored."""

    @property
    def scheme(self) -> QuantScheme | None:
        """How they are rounded; None for the model's own dtype."""
        return None

    @property
    def feeds_back(self) -> bool:
        """Whether what rounding loses is made up for where it can be, with the moments of the inputs."""
        return False

    @property
    def two_sided(self) -> bool:
        """Whether rows make up for one another, too, by the metric of the outputs."""
        return False

    @property
    def sweeps(self) -> int:
        """How often codes and scales are made better in turn, once they are there."""
        return 0

    def numbers(self, rows: int, columns: int) -> int:
        """Return how many numbers of a matrix are stored."""
        return rows * columns

    def bytes(self, rows: int, columns: int) -> int:
        """Return the stored bytes of a matrix, scales included."""
        if self.scheme is None:
            return 2 * rows * columns
        codes = math.ceil(columns * self.scheme.bits / 8) * rows
        return codes + rows * self.scheme.scale_bytes(columns)
