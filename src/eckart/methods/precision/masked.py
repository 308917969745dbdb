"""Some of the numbers, in 16 bits, and a bit for each place."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eckart.maths.sparsity import mask_width, numbers_per_row
from eckart.methods.precision.base import Precision


class Masked(Precision):
    """On average one in ``sparsity`` numbers of a row, anywhere, in the model's dtype; a bit a place says where.

    It serves for the sparse factor of a dictionary, not as the precision of a recipe.
    """

    name: Literal["masked"] = "masked"

    sparsity: float = Field(2.0, ge=1.0)

    def numbers(self, rows: int, columns: int) -> int:
        """See :meth:`Precision.numbers`."""
        return rows * numbers_per_row(columns, self.sparsity)

    def bytes(self, rows: int, columns: int) -> int:
        """See :meth:`Precision.bytes`."""
        return 2 * self.numbers(rows, columns) + rows * mask_width(columns)
