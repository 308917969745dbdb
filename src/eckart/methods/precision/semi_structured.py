"""Half of the numbers, in 16 bits: the 2:4 pattern."""

from __future__ import annotations

import math
from typing import Literal

from eckart.maths.sparsity import group_count
from eckart.methods.precision.base import Precision


class SemiStructured(Precision):
    """Of 4 neighbours in a row the 2 that matter most (Wanda, arXiv 2306.11695), in the model's dtype.

    Their places take 2 bits each. A row whose length is no multiple of 4 is filled up. It serves as the base of a
    hybrid, not as the precision of a recipe.
    """

    name: Literal["2-of-4"] = "2-of-4"

    @property
    def feeds_back(self) -> bool:
        """Which numbers stay depends on the moments of the inputs."""
        return True

    def numbers(self, rows: int, columns: int) -> int:
        """See :meth:`Precision.numbers`."""
        return 2 * rows * group_count(columns)

    def bytes(self, rows: int, columns: int) -> int:
        """See :meth:`Precision.bytes`."""
        return 2 * self.numbers(rows, columns) + rows * math.ceil(group_count(columns) / 2)
