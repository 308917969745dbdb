"""Where weights are, for layers alone and for those that share one."""

from __future__ import annotations

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from eckart.adapters.place import Place, whole_layers
from eckart.layers import LowRankLinear, QuantizedLinear, SparseLinear, fuse_modules
from eckart.layers.fused import JointPart
from eckart.maths.quantization import QuantScheme


def group(kind: type[nn.Module] = nn.Linear) -> nn.Module:
    model = nn.Module()
    for name, out in (("a", 4), ("b", 2), ("c", 3)):
        model.add_module(name, nn.Linear(6, out) if kind is nn.Linear else Conv1D(out, 6))
    model.add_module("other", nn.Linear(6, 6))
    fuse_modules(model, ["a", "b", "c"])
    return model


def test_a_layer_alone() -> None:
    layer = LowRankLinear(6, 4, 2, dtype=torch.bfloat16)
    place = Place.of(layer)
    assert tuple(place) == (layer, None, 0, None)
    assert place.features == (6, 4)
    assert place.numbers.dtype == torch.bfloat16
    up = torch.randn(4, 1)
    assert place.widened(up) is up
    assert Place.of(SparseLinear(8, 4)).features == (8, 4)


def test_the_numbers_of_few_bits_are_those_it_computes_in() -> None:
    assert Place.of(QuantizedLinear(6, 4, QuantScheme(8), dtype=torch.bfloat16)).numbers.dtype == torch.bfloat16


def test_layers_that_share_one() -> None:
    for kind in (nn.Linear, Conv1D):
        model = group(kind)
        places = {name: Place.of(model.get_submodule(name)) for name in "abc"}
        assert {name: place.features for name, place in places.items()} == {"a": (6, 4), "b": (6, 2), "c": (6, 3)}
        assert {place.layer for place in places.values()} == {model.get_submodule("a.joint")}
        assert [place.number for place in places.values()] == [0, 1, 2]
        wide = places["b"].widened(torch.ones(2, 1))
        assert wide[:, 0].tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0]


def test_whole_layers_without_what_is_inside() -> None:
    model = group()
    leader = model.get_submodule("a")
    leader.joint = LowRankLinear(6, 9, 2, scheme=QuantScheme(8))
    model.other = LowRankLinear(6, 6, 2)
    found = dict(whole_layers(model))
    assert list(found) == ["a", "b", "c", "other"]
    assert isinstance(found["c"], JointPart)
    assert list(whole_layers(model.other)) == [("", model.other)]
    assert list(whole_layers(nn.Linear(2, 2))) == []
