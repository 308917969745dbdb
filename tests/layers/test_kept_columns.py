from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from eckart.layers import KeptColumnsLinear
from eckart.layers.kept_columns import input_order

OUT, IN, RANK = 9, 8, 3
COLUMNS = torch.tensor([1, 6], dtype=torch.int32)


def layer_of(columns: Tensor = COLUMNS, *, bias: bool = True) -> KeptColumnsLinear:
    torch.manual_seed(0)
    layer = KeptColumnsLinear(IN, OUT, RANK, columns=len(columns), bias=bias)
    with torch.no_grad():
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
    layer.columns.copy_(columns)
    return layer


def test_it_is_a_weight_some_of_whose_columns_are_whole() -> None:
    layer, inputs = layer_of(), torch.randn(2, 5, IN)
    expected = torch.zeros(OUT, IN, dtype=torch.float64)
    others = [0, 2, 3, 4, 5, 7]
    first, second = layer.first.weight.detach().double(), layer.second.weight.detach().double()
    expected[:, others] = second[:, :RANK] @ first
    expected[:, [1, 6]] = second[:, RANK:]
    torch.testing.assert_close(layer.dense_weight(), expected)
    torch.testing.assert_close(layer.weight, expected.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer(inputs), nn.functional.linear(inputs, expected.float(), layer.bias))
    assert layer(inputs[:0]).shape == (0, 5, OUT)
    assert "rank=3, columns=2" in repr(layer)
    kept = sum(parameter.numel() for parameter in layer.parameters()) - OUT
    assert kept == RANK * (IN - 2) + (RANK + 2) * OUT


def test_all_outputs_follow_from_its_latents() -> None:
    layer, inputs = layer_of(), torch.randn(4, IN)
    latents = layer.encode(inputs)
    assert latents.shape == (4, layer.latent_width) == (4, RANK + 2)
    assert torch.equal(latents[:, RANK:], inputs[:, [1, 6]])
    assert torch.equal(layer.decode(latents), layer(inputs))
    torch.testing.assert_close(layer(inputs, slice(2, 5)), layer(inputs)[:, 2:5])
    heard: list[Tensor] = []
    layer.on_latents = heard.append
    layer(inputs)
    assert torch.equal(heard[0], latents)


def test_without_columns_it_is_two_factors() -> None:
    layer, inputs = layer_of(COLUMNS[:0]), torch.randn(4, IN)
    assert torch.equal(layer(inputs), layer.second(layer.first(inputs)))
    assert layer.latent_width == RANK
    assert layer.index_problem() is None
    torch.testing.assert_close(layer.dense_weight().float(), layer.second.weight @ layer.first.weight)


def test_a_new_index_counts_and_a_copy_has_its_own() -> None:
    layer, inputs = layer_of(), torch.randn(4, IN)
    before = layer(inputs)
    other = copy.deepcopy(layer)
    other.columns.copy_(torch.tensor([0, 7]))
    assert torch.equal(layer(inputs), before)
    assert not torch.allclose(other(inputs), before)
    torch.testing.assert_close(other(inputs), nn.functional.linear(inputs, other.weight, other.bias))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(inputs), before)


def test_all_its_numbers_are_trained() -> None:
    layer = layer_of()
    layer(torch.randn(6, IN)).square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in layer.parameters())


@pytest.mark.parametrize("wrong", [[6, 1], [1, 1], [-1, 3], [3, IN]])
def test_an_index_that_cannot_be_is_told(wrong: list[int]) -> None:
    layer = layer_of()
    layer.columns.copy_(torch.tensor(wrong))
    assert layer.index_problem() == f"does not name 2 of its {IN} inputs in rising order"
    assert layer.to("meta").index_problem() is None


@pytest.mark.parametrize("columns", [-1, IN])
def test_some_columns_are_left_to_the_factors(columns: int) -> None:
    with pytest.raises(ValueError, match=f"0 to {IN - 1} are kept whole, found {columns}"):
        KeptColumnsLinear(IN, OUT, RANK, columns=columns)


def test_it_gives_back_the_class_that_it_replaced() -> None:
    conv = Conv1D(OUT, IN)
    layer = KeptColumnsLinear.empty_like(conv, RANK, columns=1)
    with torch.no_grad():
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
    dense = layer.to_dense()
    assert isinstance(dense, Conv1D)
    torch.testing.assert_close(dense.weight.T.double(), layer.dense_weight(), rtol=1e-5, atol=1e-5)


def test_the_order_of_inputs() -> None:
    assert input_order(torch.tensor([2, 5]), 7).tolist() == [0, 1, 3, 4, 6, 2, 5]
    assert input_order(torch.tensor([], dtype=torch.int32), 3).tolist() == [0, 1, 2]
