from __future__ import annotations

import torch
from tests.methods.objectives.helpers import (
    RANK,
    data,
    moments_of,
    reduced_rank_regression,
    weight_of,
)

from eckart.methods.objectives import (
    ShiftAware,
)


def test_shift_aware() -> None:
    weight, _, z = data()
    expected = reduced_rank_regression(weight @ z, z, RANK)
    torch.testing.assert_close(weight_of(ShiftAware(), weight, moments_of(z, None)), expected, rtol=1e-7, atol=1e-7)


def test_only_the_compressed_model_s_inputs_are_looked_at() -> None:
    assert ShiftAware().input_source.name == "COMPRESSED"
    weight, x, z = data()
    other = weight_of(ShiftAware(), weight, moments_of(x, None))
    assert (other - weight_of(ShiftAware(), weight, moments_of(z, None))).norm() > 0.01 * weight.norm()
