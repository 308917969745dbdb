from __future__ import annotations

import torch
from tests.methods.objectives.helpers import (
    RANK,
    N,
    data,
    moments_of,
    reduced_rank_regression,
    weight_of,
)

from eckart.methods.objectives import (
    Anchored,
    InputAware,
    ShiftAware,
)


def test_anchored() -> None:
    weight, x, z = data()
    expected = reduced_rank_regression(weight @ x, z, RANK)
    torch.testing.assert_close(weight_of(Anchored(), weight, moments_of(z, x)), expected, rtol=1e-7, atol=1e-7)


def test_with_equal_inputs_it_is_input_aware() -> None:
    weight, x, _ = data()
    found = weight_of(Anchored(), weight, moments_of(x, x))
    torch.testing.assert_close(found, weight_of(InputAware(), weight, moments_of(x, None)), rtol=1e-7, atol=1e-7)


def test_at_full_rank_the_outputs_of_the_original_are_fitted_and_not_its_weight() -> None:
    weight, x, z = data()
    moments = moments_of(z, x)
    ours, theirs = (weight_of(kind(), weight, moments, N) for kind in (Anchored, ShiftAware))
    torch.testing.assert_close(theirs, weight, rtol=1e-7, atol=1e-7)
    fitted = torch.linalg.lstsq(z.T, (weight @ x).T).solution.T
    torch.testing.assert_close(ours, fitted, rtol=1e-6, atol=1e-6)
    assert (ours @ z - weight @ x).norm() < 0.99 * (weight @ z - weight @ x).norm()
