"""Inputs that weigh by their size, against an SVD of the scaled weight."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from tests.methods.objectives.helpers import CPU, RANK, N, data, moments_of, weight_of

from eckart.methods.objectives import ActivationScaled, Weight


@pytest.mark.parametrize("alpha", [0.5, 1.0, 0.3])
def test_each_input_weighs_by_a_power_of_its_mean_size(alpha: float) -> None:
    weight, x, _ = data()
    x = x * torch.logspace(-1, 2, N, dtype=torch.float64)[:, None]
    scale = x.abs().mean(dim=1).pow(alpha)
    u, s, vt = torch.linalg.svd(weight * scale, full_matrices=False)
    expected = (u[:, :RANK] * s[:RANK]) @ vt[:RANK] / scale
    found = weight_of(ActivationScaled(alpha=alpha), weight, moments_of(x, None))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_with_an_exponent_of_zero_it_is_the_weight_s_own() -> None:
    weight, x, _ = data()
    found = weight_of(ActivationScaled(alpha=0), weight, moments_of(x, None))
    torch.testing.assert_close(found, weight_of(Weight(), weight, None))


def test_an_input_that_is_always_zero_still_counts_a_little() -> None:
    weight, x, _ = data()
    x[2] = 0
    found = weight_of(ActivationScaled(), weight, moments_of(x, None), N)
    torch.testing.assert_close(found, weight)
    assert torch.isfinite(weight_of(ActivationScaled(), weight, moments_of(0 * x, None))).all()


def test_shrinkage_draws_all_sizes_together() -> None:
    weight, x, _ = data()
    x = x * torch.logspace(-1, 2, N, dtype=torch.float64)[:, None]
    found = weight_of(ActivationScaled(shrinkage=1e6), weight, moments_of(x, None))
    torch.testing.assert_close(found, weight_of(Weight(), weight, None), rtol=1e-4, atol=1e-4)
    squares = ActivationScaled(shrinkage=0.5).whitening(moments_of(x, None), N, CPU).second_moment.diagonal()
    plain = ActivationScaled().whitening(moments_of(x, None), N, CPU).second_moment.diagonal()
    assert float(squares.mean() / plain.mean()) == pytest.approx(1.5)
    torch.testing.assert_close(squares - plain, (squares - plain).mean().expand(N))


def test_a_negative_exponent_is_refused() -> None:
    with pytest.raises(ValidationError):
        ActivationScaled(alpha=-0.5)
