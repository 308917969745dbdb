"""4 bits a number."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eckart.precision.base import Precision
from eckart.quantization import Grid


class Bits4(Precision):
    """Whole numbers of 4 bits, with a scale for each group of neighbours in a row.

    Attributes:
        group: numbers that share a scale; None for a whole row.
        feedback: whether what rounding loses is made up for by the numbers behind (GPTQ, arXiv 2210.17323), and what
            rounding the first factor loses by the second, which is solved for again in closed form.
    """

    name: Literal["4-bit"] = "4-bit"

    group: int | None = Field(32, ge=1)
    feedback: bool = True

    @property
    def grid(self) -> Grid:
        """See :attr:`Precision.grid`."""
        return Grid(4, self.group)

    @property
    def feeds_back(self) -> bool:
        """See :attr:`Precision.feeds_back`."""
        return self.feedback
