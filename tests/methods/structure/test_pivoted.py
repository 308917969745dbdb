from __future__ import annotations

import math

from eckart.methods.layout import Layout
from eckart.methods.structure import Matrix, Pivoted, TwoFactor


def test_numbers() -> None:
    assert Pivoted().matrices(10, 20, 3) == [Matrix(3, 20), Matrix(7, 3)]
    assert Pivoted().numbers(10, 20, 3) == 3 * (10 + 20 - 3)
    assert Pivoted().highest_rank(10, 20) == 9
    assert Pivoted().highest_rank(20, 10) == 10


def test_ranks_of_a_7b_model_are_the_published_ones() -> None:
    """``r (m + n - r) = share m n`` solved for r; the index takes less than one of 4096 inputs."""
    for shape, share, expected in (
        ((4096, 4096), 0.8, 2264),
        ((4096, 4096), 0.4, 923),
        ((11008, 4096), 0.8, 2974),
        ((11008, 4096), 0.6, 2077),
    ):
        m, n = shape
        root = ((m + n) - math.sqrt((m + n) ** 2 - 4 * share * m * n)) / 2
        found, plain = (Layout(kind).rank_of_share(m, n, share) for kind in (Pivoted(), TwoFactor()))
        assert found is not None
        assert plain is not None
        assert root - 2 < found <= root
        assert abs(found - expected) <= 2
        assert found > plain


def test_almost_every_rank_saves_something() -> None:
    # r (128 - r) + 64 < 64 * 64 up to 55.
    assert Layout(Pivoted()).largest_rank(64, 64, 2 * 64 * 64 - 1) == 55
    assert Layout(TwoFactor()).largest_rank(64, 64, 2 * 64 * 64 - 1) == 31
