"""Bytes and rounding of every precision, against the layer that holds it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eckart.layers import QuantizedLinear
from eckart.methods.precision import PRECISIONS, AnyPrecision, Bits2, Bits3, Bits4, Bits5, Bits6, Bits8, Bits16

ALL: list[AnyPrecision] = [
    *(Bits16(), Bits8(), Bits8(group=5), Bits4(), Bits4(group=None), Bits4(group=6)),
    *(Bits3(), Bits3(group=6), Bits2(), Bits2(group=None), Bits5(), Bits6(group=7)),
    *(Bits3(group=6, scale_bits=8), Bits4(scale_bits=8), Bits8(scale_bits=8)),
]


@pytest.mark.parametrize("precision", ALL, ids=str)
@given(rows=st.integers(1, 40), columns=st.integers(1, 70))
def test_bytes_are_those_of_the_layer(precision: AnyPrecision, rows: int, columns: int) -> None:
    """Its scales are kept in 16 bits, whatever they are computed in."""
    assert precision.numbers(rows, columns) == rows * columns
    if precision.scheme is None:
        assert precision.bytes(rows, columns) == torch.empty(rows, columns, dtype=torch.bfloat16).nbytes
        return
    layer = QuantizedLinear(columns, rows, precision.scheme, bias=False, device="meta", dtype=torch.bfloat16)
    assert precision.bytes(rows, columns) == sum(tensor.nbytes for tensor in layer.state_dict().values())


def test_bytes_on_numbers_that_can_be_followed_by_hand() -> None:
    assert Bits16().bytes(10, 33) == 660
    assert Bits8().bytes(10, 33) == 330 + 20
    assert Bits8(group=32).bytes(10, 33) == 330 + 40
    assert Bits4(group=32).bytes(10, 33) == 170 + 40
    assert Bits4(group=None).bytes(10, 33) == 170 + 20
    assert Bits3(group=32).bytes(10, 33) == 130 + 40
    assert Bits2(group=32).bytes(10, 33) == 90 + 40
    assert Bits2(group=32, scale_bits=8).bytes(10, 33) == 90 + 20 + 20


def test_every_precision_has_its_name() -> None:
    few = {"8-bit": Bits8, "6-bit": Bits6, "5-bit": Bits5, "4-bit": Bits4, "3-bit": Bits3, "2-bit": Bits2}
    assert {"16-bit": Bits16, **few} == PRECISIONS
