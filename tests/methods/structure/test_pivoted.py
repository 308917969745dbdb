from __future__ import annotations

import math

import torch
from tests.layers.helpers import from_factors
from torch import nn

from eckart.layers import PivotedLinear
from eckart.methods.layout import Layout
from eckart.methods.structure import Matrix, Pivoted, TwoFactor


def test_numbers() -> None:
    assert Pivoted().matrices(10, 20, 3) == [Matrix(3, 20), Matrix(7, 3)]
    assert Pivoted().numbers(10, 20, 3) == 3 * (10 + 20 - 3)
    assert Pivoted().highest_rank(10, 20) == 9
    assert Pivoted().highest_rank(20, 10) == 10


def test_the_split_between_two_factors_makes_no_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    second = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    first = torch.randn(6, 20, generator=generator, dtype=torch.float64)
    split = torch.logspace(-2, 2, 6, dtype=torch.float64)
    linear = nn.Linear(20, 30)
    layers = []
    for b, a in ((second, first), (second * split, first / split[:, None])):
        layers.append(from_factors(PivotedLinear, linear, b, a))
    assert torch.equal(layers[0].index, layers[1].index)
    for one, two in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        torch.testing.assert_close(one, two)


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
        found = Layout(Pivoted()).rank_of_share(m, n, share)
        assert root - 2 < found <= root
        assert abs(found - expected) <= 2
        assert found > Layout(TwoFactor()).rank_of_share(m, n, share)


def test_almost_every_rank_saves_something() -> None:
    # r (128 - r) + 64 < 64 * 64 up to 55.
    assert Layout(Pivoted()).largest_rank(64, 64, 2 * 64 * 64 - 1) == 55
    assert Layout(TwoFactor()).largest_rank(64, 64, 2 * 64 * 64 - 1) == 31
