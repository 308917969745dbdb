from __future__ import annotations

from eckart.methods.structure import Matrix, TwoFactor


def test_numbers() -> None:
    assert TwoFactor().matrices(10, 20, 3) == [Matrix(3, 20), Matrix(10, 3)]
    assert TwoFactor().numbers(10, 20, 3) == 3 * 30
    assert TwoFactor().highest_rank(10, 20) == 10
