"""16 bits a number: the model's own dtype."""

from __future__ import annotations

from typing import Literal

from eckart.methods.precision.base import Precision


class Bits16(Precision):
    """Numbers are stored in the model's dtype."""

    name: Literal["16-bit"] = "16-bit"
