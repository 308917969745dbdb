from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from eckart.layers import LowRankLinear, is_linear, weight_matrix


def linear(kind: str) -> nn.Module:
    torch.manual_seed(0)
    module: nn.Module = Conv1D(7, 5) if kind == "conv1d" else nn.Linear(5, 7, bias=kind == "bias")
    if kind != "no-bias":
        nn.init.normal_(module.bias)
    return module


@pytest.mark.parametrize("kind", ["bias", "no-bias", "conv1d"])
def test_full_rank_factors_equal_the_layer_and_go_back_to_it(kind: str) -> None:
    module = linear(kind)
    weight = weight_matrix(module).detach()
    assert weight.shape == (7, 5)
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    layer = LowRankLinear.from_factors(module, u * s, vt)
    x = torch.randn(2, 3, 5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), module(x))
        dense = layer.to_dense()
        assert type(dense) is type(module)
        torch.testing.assert_close(dense(x), module(x))
        torch.testing.assert_close(layer.weight, weight)
        torch.testing.assert_close(layer.product(), weight.double(), check_dtype=True, rtol=1e-5, atol=1e-6)


def test_children_are_two_plain_linears_with_the_bias_on_the_second() -> None:
    layer = LowRankLinear.empty_like(linear("bias"), 3)
    assert [(name, type(child)) for name, child in layer.named_children()] == [
        ("first", nn.Linear),
        ("second", nn.Linear),
    ]
    assert layer.first.bias is None
    assert layer.second.bias is not None
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "first.weight": (3, 5),
        "second.weight": (7, 3),
        "second.bias": (7,),
    }
    assert "rank=3" in repr(layer)


def test_device_and_dtype_are_those_of_the_replaced_layer() -> None:
    layer = LowRankLinear.empty_like(nn.Linear(5, 7, device="meta", dtype=torch.bfloat16), 2)
    assert all(p.is_meta and p.dtype is torch.bfloat16 for p in layer.parameters())


def test_a_subclass_of_linear_is_not_taken_for_one() -> None:
    class Special(nn.Linear):
        pass

    assert is_linear(nn.Linear(1, 1))
    assert not is_linear(Special(1, 1))
    assert not is_linear(nn.Embedding(2, 2))
