"""Whole numbers of few bits, with a scale for each group of neighbours in a row."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from eckart.maths.quantization import QuantScheme
from eckart.methods.precision.base import Precision


class LowBit(Precision):
    """What the precisions below 16 bits have in common.

    Attributes:
        group: numbers that share a scale, halved where that does not divide a row; None for a whole row.
        feedback: whether what rounding loses is made up for by the numbers behind (GPTQ, arXiv 2210.17323), and what
            rounding the first factor loses by the second, which is solved for again in closed form.
    """

    bits: ClassVar[int]

    group: int | None = Field(None, ge=1)
    feedback: bool = True

    @property
    def scheme(self) -> QuantScheme:
        """See :attr:`Precision.scheme`."""
        return QuantScheme(self.bits, self.group)

    @property
    def feeds_back(self) -> bool:
        """See :attr:`Precision.feeds_back`."""
        return self.feedback


class Bits8(LowBit):
    """8 bits a number, by default a scale for each row."""

    name: Literal["8-bit"] = "8-bit"
    bits: ClassVar[int] = 8


class Bits4(LowBit):
    """4 bits a number, by default a scale for each 32 numbers."""

    name: Literal["4-bit"] = "4-bit"
    bits: ClassVar[int] = 4

    group: int | None = Field(32, ge=1)
