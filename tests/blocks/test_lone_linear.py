from __future__ import annotations

import torch
from torch import nn

from eckart.blocks.block import Block
from eckart.blocks.lone_linear import LoneLinear


def test_a_layer_that_is_put_in_is_put_into_the_model_too() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    lone = LoneLinear(model, "1")
    inputs = torch.randn(5, 4)
    assert lone.layer is model[1]
    assert torch.equal(lone(inputs), model[1](inputs))
    assert [name for name, _ in lone.named_parameters()] == ["1.weight", "1.bias"]
    other = nn.Linear(4, 2)
    lone.set_submodule("1", other)
    assert lone.layer is other
    assert model[1] is other
    assert torch.equal(lone(inputs), other(inputs))


def test_what_is_in_it_has_the_path_that_it_has_in_the_model() -> None:
    model = nn.ModuleDict({"tower": nn.ModuleDict({"head": nn.Linear(3, 2)})})
    block = Block("tower.head", LoneLinear(model.get_submodule("tower"), "head"), ())
    assert block.called is model.get_submodule("tower.head")
    assert block.inside("head.weight") == "tower.head.weight"
    assert block.holds("tower.head.weight")
    assert not block.holds("tower.headless")
    assert Block("head", LoneLinear(nn.ModuleDict({"head": nn.Linear(3, 2)}), "head"), ()).inside("head") == "head"
