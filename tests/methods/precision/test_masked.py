from __future__ import annotations

from eckart.methods.precision.masked import Masked


def test_numbers_and_bytes() -> None:
    precision = Masked(sparsity=3)
    assert precision.scheme is None
    assert not precision.feeds_back
    assert precision.numbers(10, 30) == 100
    assert precision.bytes(10, 30) == 200 + 10 * 4
    assert precision.numbers(10, 2) == 10  # one a row at least
