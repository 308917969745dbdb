from __future__ import annotations

import torch
from tests.methods.allocation.helpers import LAYOUT, statistics

from eckart.methods.allocation import (
    Curvature,
)


def test_curvature_prices_the_jump_to_dense() -> None:
    """A linear whose loss lies in its last components is better left dense than factored at any rank."""
    flat = statistics("0.flat", (64, 64), curvature=torch.ones(64, dtype=torch.float64))
    steep = statistics("0.steep", (64, 64), curvature=0.7 ** torch.arange(64, dtype=torch.float64))
    ranks = Curvature(multiple=1).ranks((flat, steep), 0.7, LAYOUT)
    assert ranks["0.flat"] is None
    assert ranks["0.steep"] is not None
