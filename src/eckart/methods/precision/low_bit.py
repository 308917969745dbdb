"""Whole numbers of few bits, with a scale for each group of neighbours in a row."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, SerializationInfo, SerializerFunctionWrapHandler, model_serializer

from eckart.maths.quantization import QuantScheme
from eckart.methods.choice import ALL_FIELDS
from eckart.methods.precision.base import Precision


class LowBit(Precision):
    """What the precisions below 16 bits have in common.

    Attributes:
        group: numbers that share a scale, halved where that does not divide a row; None for a whole row.
        feedback: whether what rounding loses is made up for by the numbers behind (GPTQ, arXiv 2210.17323), and what
            rounding the first factor loses by the second, which is solved for again in closed form.
        output_feedback: whether rows make up for what those in front of them lost, where the outputs of a whole weight
            have a metric (YAQA, arXiv 2505.22988).
        descent: with feedback, how often all codes are then set to the best for the others, one after another
            (QuantEase, arXiv 2309.01885), and the scales to the best for the codes.
        scale_bits: of a scale: those of the model's dtype, or 8 and one number of that dtype for a row.
    """

    bits: ClassVar[int]

    group: int | None = Field(None, ge=1)
    feedback: bool = True
    output_feedback: bool = False
    descent: int = Field(0, ge=0)
    scale_bits: Literal[16, 8] = 16

    @model_serializer(mode="wrap")
    def _without_what_is_not_said(
        self, write: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        if info.context == ALL_FIELDS:
            found: dict[str, Any] = write(self)
            return found
        # As before there were these: files of runs without them stay the same to the byte.
        unsaid = {name for name in ("output_feedback", "descent") if not getattr(self, name)}
        unsaid |= {"scale_bits"} if self.scale_bits == 16 else set()
        return {name: value for name, value in write(self).items() if name not in unsaid}

    @property
    def scheme(self) -> QuantScheme:
        """See :attr:`Precision.scheme`."""
        return QuantScheme(self.bits, self.group, self.scale_bits)

    @property
    def feeds_back(self) -> bool:
        """See :attr:`Precision.feeds_back`."""
        return self.feedback

    @property
    def two_sided(self) -> bool:
        """See :attr:`Precision.two_sided`."""
        return self.feedback and self.output_feedback

    @property
    def sweeps(self) -> int:
        """See :attr:`Precision.sweeps`."""
        return self.descent if self.feedback else 0


class Bits8(LowBit):
    """8 bits a number, by default a scale for each row."""

    name: Literal["8-bit"] = "8-bit"
    bits: ClassVar[int] = 8


class Bits6(LowBit):
    """6 bits a number, by default a scale for each 64 numbers."""

    name: Literal["6-bit"] = "6-bit"
    bits: ClassVar[int] = 6

    group: int | None = Field(64, ge=1)


class Bits5(LowBit):
    """5 bits a number, by default a scale for each 64 numbers."""

    name: Literal["5-bit"] = "5-bit"
    bits: ClassVar[int] = 5

    group: int | None = Field(64, ge=1)


class Bits4(LowBit):
    """4 bits a number, by default a scale for each 32 numbers."""

    name: Literal["4-bit"] = "4-bit"
    bits: ClassVar[int] = 4

    group: int | None = Field(32, ge=1)


class Bits3(LowBit):
    """3 bits a number, by default a scale for each 64 numbers."""

    name: Literal["3-bit"] = "3-bit"
    bits: ClassVar[int] = 3

    group: int | None = Field(64, ge=1)


class Bits2(LowBit):
    """2 bits a number, by default a scale for each 64 numbers."""

    name: Literal["2-bit"] = "2-bit"
    bits: ClassVar[int] = 2

    group: int | None = Field(64, ge=1)
