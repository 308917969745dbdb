from __future__ import annotations

import pytest
import torch

from eckart.compression.records import LayerRecord
from eckart.maths.moments import Moments
from eckart.methods.objectives import Anchored
from eckart.run.compress import unresolved_warnings

CPU = torch.device("cpu")


def measured(apart: float, affine: bool) -> float:
    """Return the share of a linear whose target is the difference of two features that are ``apart`` in X'."""
    generator = torch.Generator().manual_seed(0)
    common, difference = (torch.randn(200, 1, generator=generator) for _ in range(2))
    common = common + 10 * affine
    inputs, original = (torch.cat([common, common + size * difference], dim=1) for size in (apart, 1.0))
    weight = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    moments = Moments.zeros(2, paired=True, device=CPU)
    moments.add(inputs, original)
    energy = float((original.double() @ weight.T).square().sum())
    objective = Anchored(affine=affine)
    return objective.unresolved(weight, moments, objective.whitening(moments, 2, CPU)) / energy


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("apart", [1.0, 1e-2, 1e-4])
def test_what_inputs_tell_is_resolved(apart: float, affine: bool) -> None:
    assert measured(apart, affine) == 0


@pytest.mark.parametrize(("apart", "affine"), [(3e-7, False), (3e-5, True)])
def test_a_target_that_inputs_hardly_tell_is_said_to_be_unresolved(apart: float, affine: bool) -> None:
    assert measured(apart, affine) > 0.02


@pytest.mark.parametrize("affine", [False, True])
def test_inputs_that_are_the_same_hide_nothing(affine: bool) -> None:
    assert measured(0.0, affine) < 1e-6


def test_the_warning_names_the_worst_layer_and_how_much() -> None:
    layers = [
        LayerRecord(path=path, out_features=4, in_features=4, rank=1, bytes=16, error=0.1, unresolved=share)
        for path, share in (("a", 0.0), ("b", 0.02), ("c", 0.4), ("d", 0.001))
    ]
    (message,) = unresolved_warnings(layers)
    assert "2 layers" in message
    assert "40.0% of the outputs of c " in message
    assert not unresolved_warnings(layers[:1])
