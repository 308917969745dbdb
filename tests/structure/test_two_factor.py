from __future__ import annotations

from eckart.structure import TwoFactor


def test_a_rank_must_save_something() -> None:
    structure = TwoFactor()
    assert structure.bytes(10, 20, 3) == 2 * 3 * 30
    assert structure.largest_rank(10, 20, 400) is None
    assert structure.largest_rank(10, 20, 399) == 6
    assert structure.largest_rank(10, 20, 1) == 1
    # Rank 1 of a vector costs more than the vector.
    assert structure.largest_rank(1, 20, 30) is None
