"""Factors of 8 bits and their rest of 16, against dense float64 products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.layers.helpers import from_factors
from torch import nn
from transformers.pytorch_utils import Conv1D

from eckart.layers import QuantizedLinear, RemappedLinear, bias_vector, weight_matrix
from eckart.maths.whitening import whiten
from eckart.methods.structure.fitting import Fit

SHAPES = [(30, 18), (18, 30), (24, 24)]  # (out features, in features)


def make(shape: tuple[int, int], kind: str = "bias") -> Any:
    torch.manual_seed(0)
    m, n = shape
    module: Any = Conv1D(m, n) if kind == "conv1d" else nn.Linear(n, m, bias=kind == "bias")
    if kind != "no-bias":
        nn.init.normal_(module.bias)
    return module


def factors(shape: tuple[int, int], rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    second = torch.randn(shape[0], rank, dtype=torch.float64, generator=generator)
    return second, torch.randn(rank, shape[1], dtype=torch.float64, generator=generator)


def fit_of(target: torch.Tensor, inputs: int | None = None) -> Fit:
    generator = torch.Generator().manual_seed(2)
    n = target.shape[1]
    features = torch.randn(n, inputs or n, dtype=torch.float64, generator=generator)
    features = features @ torch.randn(features.shape[1], 300, dtype=torch.float64, generator=generator)
    return Fit(target, whiten(features @ features.T))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["bias", "no-bias", "conv1d"])
def test_outputs_are_those_of_the_dense_product(shape: tuple[int, int], kind: str) -> None:
    module = make(shape, kind).double()
    second, first = factors(shape, 5)
    layer = from_factors(RemappedLinear, module, second, first)
    x = torch.randn(2, 3, shape[1], dtype=torch.float64)
    common = min(shape)
    held = [layer.second.weight, layer.first.weight]
    if shape[0] > common:
        held[0] = torch.cat([held[0], layer.rest.weight])
        torch.testing.assert_close(layer.rest.weight.detach(), second[common:])
    elif shape[1] > common:
        held[1] = torch.cat([held[1], layer.rest.weight], dim=1)
        torch.testing.assert_close(layer.rest.weight.detach(), first[:, common:])
    weight = held[0] @ held[1]
    bias = bias_vector(module)
    expected = x @ weight.T + (0 if bias is None else bias)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.weight, weight)
    torch.testing.assert_close(layer.dense_weight(), weight.detach())
    assert type(layer.to_dense()) is type(module)
    torch.testing.assert_close(layer.to_dense()(x), expected)
    assert (layer.dense_weight() - second @ first).norm() < 0.02 * (second @ first).norm()
    held_biases = sum(p.numel() for name, p in layer.named_parameters() if name.endswith("bias"))
    assert held_biases == (0 if bias is None else shape[0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 7, 18])
def test_it_takes_two_bytes_for_each_component_and_longer_side(shape: tuple[int, int], rank: int) -> None:
    layer = from_factors(RemappedLinear, make(shape).bfloat16(), *factors(shape, rank))
    tensors = {name: tensor for name, tensor in layer.state_dict().items() if not name.endswith("bias")}
    scales = sum(tensor.nbytes for name, tensor in tensors.items() if name.endswith("scale"))
    assert sum(tensor.nbytes for tensor in tensors.values()) - scales == 2 * rank * max(shape)
    assert scales == 2 * (rank + min(shape))
    assert isinstance(layer.first, QuantizedLinear)
    assert isinstance(layer.second, QuantizedLinear)
    assert type(layer.rest) is (nn.Linear if shape[0] != shape[1] else type(None))
    assert tensors["first.codes"].dtype is tensors["second.codes"].dtype is torch.int8


@pytest.mark.parametrize("shape", SHAPES)
def test_feedback_loses_less(shape: tuple[int, int]) -> None:
    second, first = factors(shape, 6)
    fit = fit_of(second @ first)
    plain = from_factors(RemappedLinear, make(shape), second, first)
    fed_back = from_factors(RemappedLinear, make(shape), second, first, fit=fit)
    assert fit.loss(fed_back.dense_weight()) < 0.7 * fit.loss(plain.dense_weight())


def test_what_takes_16_bits_makes_up_for_the_first_columns() -> None:
    """Where the rest sees what the first columns see, nothing is lost but in ``second``."""
    shape = (6, 18)
    second, first = factors(shape, 4)
    generator = torch.Generator().manual_seed(3)
    rest = torch.randn(12, 400, dtype=torch.float64, generator=generator)
    inputs = torch.cat([torch.randn(6, 12, dtype=torch.float64, generator=generator) @ rest, rest])
    fit = Fit(second @ first, whiten(inputs @ inputs.T))
    layer = from_factors(RemappedLinear, make(shape).double(), second, first, fit=fit)
    held = torch.cat([layer.first.weight, layer.rest.weight], dim=1).detach()
    plain = torch.cat([from_factors(RemappedLinear, make(shape).double(), second, first).first.weight, first[:, 6:]], 1)
    lost = [float(((factor.detach() - first) @ inputs).norm()) for factor in (held, plain)]
    assert lost[0] < 0.1 * lost[1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("inputs", [1, 3])
def test_few_inputs_are_no_obstacle(shape: tuple[int, int], inputs: int) -> None:
    second, first = factors(shape, 6)
    fit = fit_of(second @ first, inputs)
    layer = from_factors(RemappedLinear, make(shape), second, first, fit=fit)
    assert torch.isfinite(layer.dense_weight()).all()
    plain = from_factors(RemappedLinear, make(shape), second, first)
    assert fit.loss(layer.dense_weight()) < fit.loss(plain.dense_weight())
    silent = Fit(second @ first, whiten(torch.zeros(shape[1], shape[1], dtype=torch.float64)))
    layer = from_factors(RemappedLinear, make(shape), second, first, fit=silent)
    torch.testing.assert_close(layer.dense_weight(), plain.dense_weight())


@pytest.mark.parametrize("shape", SHAPES)
def test_zero_weights_and_equal_rows(shape: tuple[int, int]) -> None:
    module = make(shape)
    second, first = (torch.zeros_like(factor) for factor in factors(shape, 2))
    layer = from_factors(RemappedLinear, module, second, first, fit=fit_of(second @ first))
    torch.testing.assert_close(layer(torch.ones(1, shape[1])), module.bias[None])
    ones = torch.ones(shape[0], 1), torch.ones(1, shape[1])
    equal = from_factors(RemappedLinear, module, *ones)
    torch.testing.assert_close(equal.dense_weight(), torch.ones(shape, dtype=torch.float64))


@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_are_those_that_will_be_stored_and_train(shape: tuple[int, int]) -> None:
    second, first = factors(shape, 4)
    layer = from_factors(RemappedLinear, make(shape), second, first, torch.bfloat16)
    for parameter in layer.parameters():
        assert torch.equal(parameter, parameter.bfloat16().float())
    x = torch.randn(4, shape[1], requires_grad=True)
    layer(x).square().sum().backward()
    assert all(parameter.grad.norm() > 0 for parameter in layer.parameters())
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))
    half = layer.bfloat16()
    assert half(x.bfloat16()).dtype is torch.bfloat16
    assert half.first.codes.dtype is torch.int8
    assert weight_matrix(half).shape == shape
