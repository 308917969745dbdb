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
    InputAware,
)


def test_input_aware() -> None:
    weight, x, _ = data()
    expected = reduced_rank_regression(weight @ x, x, RANK)
    torch.testing.assert_close(weight_of(InputAware(), weight, moments_of(x, None)), expected, rtol=1e-7, atol=1e-7)


def test_features_without_data_keep_their_weights() -> None:
    """Where no token has anything, any weight loses as little: that of the model stays."""
    weight, x, _ = data()
    x[[1, 4]] = 0
    found = weight_of(InputAware(), weight, moments_of(x, None), N)
    torch.testing.assert_close(found, weight, rtol=1e-6, atol=1e-6)
    assert InputAware().input_source.name == "ORIGINAL"
