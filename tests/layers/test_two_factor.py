from __future__ import annotations

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
