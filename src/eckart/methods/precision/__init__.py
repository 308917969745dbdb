"""How a number is stored: one class a precision, one line each in the table below."""

from __future__ import annotations

from eckart.methods.precision.base import Precision as Precision
from eckart.methods.precision.bits16 import Bits16 as Bits16
from eckart.methods.precision.low_bit import Bits4 as Bits4
from eckart.methods.precision.low_bit import Bits8 as Bits8
from eckart.methods.precision.semi_structured import SemiStructured as SemiStructured

AnyPrecision = Bits16 | Bits8 | Bits4
PRECISIONS: dict[str, type[AnyPrecision]] = {
    choice.model_fields["name"].default: choice for choice in (Bits16, Bits8, Bits4)
}
