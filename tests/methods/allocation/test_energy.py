from __future__ import annotations

import pytest
import torch
from tests.methods.allocation.helpers import LAYOUT, statistics

from eckart.methods.allocation import (
    Energy,
)


def test_energy_is_the_optimum_of_the_truncation_loss_of_equal_linears() -> None:
    """Equal shapes, steps of one size, no dense option in reach: greedy by energy is keeping the largest components."""
    falling = 0.8 ** torch.arange(64, dtype=torch.float64)
    linears = tuple(statistics(f"{i}.x", (64, 64), energy=falling * (i + 1)) for i in range(4))
    ranks = Energy(relative=False, multiple=1).ranks(linears, 0.3, LAYOUT)
    kept = sum(rank or 64 for rank in ranks.values())
    everything = torch.cat([falling * (i + 1) for i in range(4)]).sort(descending=True).values
    found = sum(float((falling * (i + 1))[: ranks[x.path]].sum()) for i, x in enumerate(linears))
    assert found == pytest.approx(float(everything[:kept].sum()))
