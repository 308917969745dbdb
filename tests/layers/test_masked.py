from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from eckart.layers import MaskedLinear

OUT, IN, NUMBERS = 7, 11, 30


def layer_and_weight(dtype: torch.dtype = torch.float32) -> tuple[MaskedLinear, Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(OUT, IN, dtype=dtype)
    smallest = weight.abs().flatten().topk(OUT * IN - NUMBERS, largest=False).indices
    weight.view(-1)[smallest] = 0
    layer = MaskedLinear(IN, OUT, NUMBERS, dtype=dtype)
    assert layer.bias is not None
    nn.init.normal_(layer.bias)
    layer.set_numbers(weight)
    return layer, weight


def test_it_holds_the_numbers_that_are_there_and_a_bit_a_place() -> None:
    layer, weight = layer_and_weight()
    assert torch.equal(layer.weight, weight)
    assert layer.values.shape == (NUMBERS,)
    assert layer.mask.shape == (OUT, 2)
    assert layer.has_valid_mask()
    assert "numbers=30" in repr(layer)
    inputs = torch.randn(2, 3, IN)
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with context():
            torch.testing.assert_close(layer(inputs), nn.functional.linear(inputs, weight, layer.bias))
            torch.testing.assert_close(layer(inputs, slice(2, 5)), layer(inputs)[..., 2:5])


def test_what_is_held_follows_the_numbers() -> None:
    layer, _ = layer_and_weight()
    inputs = torch.randn(4, IN)
    with torch.no_grad():
        before = layer(inputs)
        assert layer._unpacked is not None
        other = copy.deepcopy(layer)
        assert other._unpacked is None
        layer.values.mul_(2)
        assert not torch.equal(layer(inputs), before)
        assert torch.equal(other(inputs), before)
        layer.load_state_dict(other.state_dict())
        assert torch.equal(layer(inputs), before)
        assert layer.to(torch.bfloat16)(inputs.bfloat16()).dtype is torch.bfloat16


def test_numbers_that_are_swapped_for_a_pass_are_those_that_run() -> None:
    layer, weight = layer_and_weight()
    inputs = torch.randn(4, IN)
    with torch.no_grad():
        for factor in (2.0, 3.0, 5.0):  # each in memory that the one before has left
            found = torch.func.functional_call(layer, {"values": factor * layer.values.detach()}, (inputs,))
            torch.testing.assert_close(found, nn.functional.linear(inputs, factor * weight, layer.bias))


def test_frozen_it_passes_gradients_on_after_inference() -> None:
    layer, weight = layer_and_weight()
    layer.requires_grad_(False)
    with torch.inference_mode():
        layer(torch.randn(2, IN))
    inputs = torch.randn(2, IN, requires_grad=True)
    layer(inputs).sum().backward()
    assert inputs.grad is not None
    torch.testing.assert_close(inputs.grad, weight.sum(dim=0).expand(2, -1))


def test_gradients_are_those_of_a_dense_layer_where_numbers_are() -> None:
    layer, weight = layer_and_weight(torch.float64)
    inputs = torch.randn(6, IN, dtype=torch.float64)
    layer(inputs).square().sum().backward()
    dense = weight.clone().requires_grad_()
    nn.functional.linear(inputs, dense, layer.bias).square().sum().backward()
    assert layer.values.grad is not None
    assert dense.grad is not None
    torch.testing.assert_close(layer.values.grad, dense.grad[weight != 0])


def test_zeros_among_the_numbers_have_places_too() -> None:
    layer = MaskedLinear(IN, OUT, NUMBERS, bias=False)
    layer.set_numbers(torch.zeros(OUT, IN))
    assert layer.has_valid_mask()
    layer.mask[0, 0] ^= 1
    assert not layer.has_valid_mask()


@pytest.mark.parametrize("numbers", [-1, OUT * IN + 1])
def test_numbers_that_have_no_place(numbers: int) -> None:
    with pytest.raises(ValueError, match=f"7 x 11 cannot have {numbers} numbers"):
        MaskedLinear(IN, OUT, numbers)
