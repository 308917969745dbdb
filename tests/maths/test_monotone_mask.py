"""Masks that never rise, by their rules written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eckart.maths.monotone_mask import hard_mask, numbers_of_share, soft_mask


@given(st.integers(0, 10**6), st.integers(2, 20), st.integers(1, 50))
def test_a_mask_falls_from_one_whatever_the_numbers(seed: int, bins: int, size: int) -> None:
    numbers = 5 * torch.randn(bins, generator=torch.Generator().manual_seed(seed))
    found = soft_mask(numbers, size)
    p = numbers.double().softmax(0).tolist()
    q = [sum(p[d:]) for d in range(bins)]
    expected = [q[math.ceil(i * bins / size) - 1] for i in range(1, size + 1)]
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=1e-4)
    assert (found.diff() <= 0).all()


def test_every_number_moves_the_whole_mask() -> None:
    numbers = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    weights = torch.rand(20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((soft_mask(numbers, 20) * weights).sum(), numbers)
    assert (gradient.abs() > 1e-6).all()
    for place in range(8):
        moved = numbers.detach().clone()
        moved[place] += 1e-6
        change = ((soft_mask(moved, 20) - soft_mask(numbers.detach(), 20)) * weights).sum() / 1e-6
        assert float(gradient[place]) == pytest.approx(float(change), rel=1e-3, abs=1e-8)


def test_a_hard_mask_is_whole_and_has_the_gradient_of_the_soft_one() -> None:
    mask = torch.tensor([1.0, 0.9, 0.5, 0.3], requires_grad=True)
    found = hard_mask(mask)
    assert found.tolist() == [1, 1, 1, 0]
    (gradient,) = torch.autograd.grad((found * torch.arange(4.0)).sum(), mask)
    assert gradient.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.8, 0.97])
def test_numbers_are_found_of_a_share(share: float) -> None:
    assert float(soft_mask(numbers_of_share(share, 100), 100).mean()) == pytest.approx(share, abs=1e-3)


def test_all_mass_on_the_last_bin_lets_all_pass() -> None:
    numbers = torch.zeros(10)
    numbers[-1] = 100
    assert soft_mask(numbers, 30).tolist() == [1.0] * 30
