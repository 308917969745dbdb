from __future__ import annotations

import torch
from tests.methods.objectives.helpers import (
    CPU,
    RANK,
    N,
    data,
    moments_of,
    weight_of,
)

from eckart.methods.objectives import (
    Weight,
)


def test_weight() -> None:
    weight, _, _ = data()
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    torch.testing.assert_close(weight_of(Weight(), weight, None), (u[:, :RANK] * s[:RANK]) @ vt[:RANK])


def test_no_data_is_looked_at() -> None:
    assert not Weight().needs_data
    whitening = Weight().whitening(None, N, CPU)
    assert torch.equal(whitening.second_moment, torch.eye(N, dtype=torch.float64))
    weight, x, z = data()
    moments = moments_of(x, z)
    target = Weight().target(weight, moments, whitening, RANK)
    assert (target.cross, target.mean) == (None, None)
    assert Weight().unresolved(weight, moments, whitening) == 0
