from __future__ import annotations

import torch
from torch import nn

from eckart.layers import LowRankLinear


def test_the_bias_is_on_the_second() -> None:
    layer = LowRankLinear.empty_like(nn.Linear(5, 7), 3)
    assert layer.first.bias is None
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "first.weight": (3, 5),
        "second.weight": (7, 3),
        "second.bias": (7,),
    }


def test_the_first_components_alone() -> None:
    layer = LowRankLinear.empty_like(nn.Linear(5, 7), 3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    layer.first.weight.requires_grad_(False)
    first, second = layer.first.weight.clone(), layer.second.weight.detach().clone()
    layer.cut(2)
    assert (layer.rank, layer.first.out_features, layer.second.in_features) == (2, 2, 2)
    assert torch.equal(layer.weight, second[:, :2] @ first[:2])
    assert layer.second.weight.is_contiguous()
    assert (layer.first.weight.requires_grad, layer.second.weight.requires_grad) == (False, True)
    assert layer(torch.ones(1, 5)).shape == (1, 7)
