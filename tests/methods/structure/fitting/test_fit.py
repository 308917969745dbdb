"""What is lost, by the second moment or by its root, against raw inputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eckart.maths.whitening import Whitening
from eckart.methods.structure.fitting import Fit


def test_a_fit_is_the_same_by_the_second_moment_and_by_its_root() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, 30, generator=generator, dtype=torch.float64)
    target, weight = (torch.randn(5, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    root = torch.linalg.cholesky(inputs @ inputs.T)
    fits = Fit(target, inputs @ inputs.T), Fit(target, Whitening(root, torch.linalg.inv(root)))
    for fit in fits:
        torch.testing.assert_close(fit.second_moment, inputs @ inputs.T)
        assert fit.loss(weight) == pytest.approx(float(((target - weight) @ inputs).square().sum()))


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6), st.integers(1, 20))
def test_the_loss_is_that_of_the_outputs_in_the_metric(seed: int, m: int, n: int, tokens: int) -> None:
    """Also where there are fewer tokens than features."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, tokens, generator=generator, dtype=torch.float64)
    target, weight = (torch.randn(m, n, generator=generator, dtype=torch.float64) for _ in range(2))
    metric = torch.randn(m, m, generator=generator, dtype=torch.float64)
    errors = (target - weight) @ inputs
    for root, expected in ((None, errors), (Whitening(metric, torch.linalg.pinv(metric)), metric.T @ errors)):
        found = Fit(target, inputs @ inputs.T, root).loss(weight)
        assert found == pytest.approx(float(expected.square().sum()), rel=1e-4, abs=1e-5)
