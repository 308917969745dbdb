from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eckart.allocation import Uniform
from eckart.structure import TwoFactor, dense_bytes

STRUCTURE = TwoFactor()


@given(st.integers(1, 400), st.integers(1, 400), st.floats(0.01, 1.0))
def test_rank_is_the_largest_within_the_budget(m: int, n: int, keep: float) -> None:
    rank = Uniform().ranks({"x": (m, n)}, keep, STRUCTURE)["x"]
    if rank is None:
        # Dense: there is nothing to save, by the budget or by the structure.
        assert keep >= 1 - 1e-6 or STRUCTURE.bytes(m, n, 1) >= dense_bytes(m, n)
        return
    budget = keep * dense_bytes(m, n) + 1e-3
    assert rank == 1 or STRUCTURE.bytes(m, n, rank) <= budget
    assert STRUCTURE.bytes(m, n, rank + 1) > budget - 1e-2
    assert STRUCTURE.bytes(m, n, rank) < dense_bytes(m, n)


def test_published_ranks_of_a_7b_model() -> None:
    shapes = {"q": (4096, 4096), "down": (4096, 11008)}
    assert Uniform().ranks(shapes, 0.8, STRUCTURE) == {"q": 1638, "down": 2388}
    assert Uniform().ranks(shapes, 0.6, STRUCTURE) == {"q": 1228, "down": 1791}
    assert Uniform().ranks(shapes, 1.0, STRUCTURE) == {"q": None, "down": None}


def test_a_share_that_is_not_exact_in_binary_loses_no_rank() -> None:
    # 0.6 * 10 * 15 / 25 is 3.6 of a rank; 0.7 * 2 * 100 * 100 is 13999.999... bytes in binary, rank 35.
    assert Uniform().ranks({"x": (100, 100)}, 0.7, STRUCTURE)["x"] == 35
