"""How a number is stored: one class a precision, one line each in the table below."""

from __future__ import annotations

from eckart.methods.precision.base import Precision
from eckart.methods.precision.bits16 import Bits16
from eckart.methods.precision.low_bit import Bits2, Bits3, Bits4, Bits5, Bits6, Bits8
from eckart.methods.precision.semi_structured import SemiStructured

__all__ = [
    "BASES",
    "PRECISIONS",
    "AnyBase",
    "AnyPrecision",
    "Bits2",
    "Bits3",
    "Bits4",
    "Bits5",
    "Bits6",
    "Bits8",
    "Bits16",
    "FewBits",
    "Precision",
    "SemiStructured",
]

FewBits = Bits8 | Bits6 | Bits5 | Bits4 | Bits3 | Bits2
AnyPrecision = Bits16 | FewBits
AnyBase = FewBits | SemiStructured
PRECISIONS: dict[str, type[AnyPrecision]] = {
    choice.model_fields["name"].default: choice for choice in (Bits16, Bits8, Bits6, Bits5, Bits4, Bits3, Bits2)
}
BASES: dict[str, type[AnyBase]] = {
    choice.model_fields["name"].default: choice for choice in (Bits8, Bits6, Bits5, Bits4, Bits3, Bits2, SemiStructured)
}
