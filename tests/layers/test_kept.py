from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from eckart.layers import KeptInputsLinear, KeptLinear, KeptOutputsLinear, is_replaced, weight_matrix
from eckart.layers.linear import is_linear

PLACES = torch.tensor([1, 2, 5])


def filled(layer: KeptLinear) -> KeptLinear:
    assert layer.index is not None
    torch.manual_seed(0)
    with torch.no_grad():
        layer.index.copy_(PLACES)
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return layer


@pytest.mark.parametrize("bias", [True, False])
def test_outputs_that_are_dropped_are_zeros(bias: bool) -> None:
    layer = filled(KeptOutputsLinear.empty_like(nn.Linear(4, 7, bias=bias), 3))
    x = torch.randn(2, 5, 4)
    found = layer(x)
    dense = layer.to_dense()
    assert isinstance(dense, nn.Linear)
    assert torch.allclose(found, dense(x))
    assert not found[..., [0, 3, 4, 6]].any()
    assert torch.equal(found[..., PLACES], linear(x, layer.weight, layer.bias))
    assert (dense.bias is not None) == bias
    assert is_replaced(layer)
    assert not is_linear(layer)


@pytest.mark.parametrize("bias", [True, False])
def test_inputs_that_are_dropped_do_not_count(bias: bool) -> None:
    layer = filled(KeptInputsLinear.empty_like(nn.Linear(7, 4, bias=bias), 3))
    x = torch.randn(2, 5, 7)
    found = layer(x)
    assert torch.allclose(found, layer.to_dense()(x), atol=1e-6)
    x[..., [0, 3, 4, 6]] = 9
    assert torch.equal(layer(x), found)


def test_without_an_index_it_is_a_smaller_linear_layer() -> None:
    for layer in (
        filled(KeptOutputsLinear.empty_like(nn.Linear(4, 7), 3)),
        filled(KeptInputsLinear.empty_like(nn.Linear(7, 4), 3)),
    ):
        layer.drop_index()
        x = torch.randn(2, layer.weight.shape[1])
        assert torch.equal(layer(x), linear(x, layer.weight, layer.bias))
        assert set(layer.state_dict()) == {"weight", "bias"}
        assert layer.has_valid_index()
        assert layer.dense_weight().shape == layer.dense_shape


def test_a_conv1d_comes_back() -> None:
    layer = filled(KeptOutputsLinear.empty_like(Conv1D(7, 4), 3))
    dense = layer.to_dense()
    assert isinstance(dense, Conv1D)
    x = torch.randn(2, 4)
    assert torch.allclose(dense(x), layer(x), atol=1e-6)
    assert weight_matrix(dense).shape == (7, 4)


@pytest.mark.parametrize("places", [[1, 1, 2], [2, 1, 5], [-1, 2, 3], [1, 2, 7]])
def test_a_damaged_index_is_seen(places: list[int]) -> None:
    layer = filled(KeptOutputsLinear.empty_like(nn.Linear(4, 7), 3))
    assert layer.has_valid_index()
    assert layer.index is not None
    layer.index.copy_(torch.tensor(places))
    assert not layer.has_valid_index()


def test_gradients_reach_what_is_kept() -> None:
    layer = filled(KeptOutputsLinear.empty_like(nn.Linear(4, 7), 3))
    layer(torch.randn(2, 4)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0


def test_it_draws_no_random_numbers_and_listens() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    layer = KeptOutputsLinear.empty_like(nn.Linear(4, 7, device="meta"), 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert layer.weight.is_meta
    heard: list[torch.Tensor] = []
    layer = KeptOutputsLinear.empty_like(nn.Linear(4, 7), 3)
    filled(layer)
    layer.on_latents = heard.append
    found = layer(torch.randn(2, 4))
    assert torch.equal(layer.decode(heard[0]), found)
    assert "kept=3 of 7" in repr(layer)
