"""What holds for every layer that stands for a linear one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.layers.helpers import from_factors
from torch import nn
from transformers.pytorch_utils import Conv1D

from eckart.layers import FactoredLinear, KeptColumnsLinear, LowRankLinear, PivotedLinear, bias_vector, weight_matrix
from eckart.maths.quantization import QuantScheme
from eckart.maths.whitening import Whitening
from eckart.methods.structure.fitting import Fit

LAYERS = [LowRankLinear, PivotedLinear, KeptColumnsLinear]
OUT, IN, RANK = 9, 7, 5


def linear(kind: str) -> Any:
    """A linear layer whose weight is of rank RANK."""
    torch.manual_seed(0)
    module: Any = Conv1D(OUT, IN) if kind == "conv1d" else nn.Linear(IN, OUT, bias=kind == "bias")
    if kind != "no-bias":
        nn.init.normal_(module.bias)
    with torch.no_grad():
        weight_matrix(module).copy_(torch.randn(OUT, RANK) @ torch.randn(RANK, IN))
    return module


def factors(module: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    u, s, vt = torch.linalg.svd(weight_matrix(module).detach().double(), full_matrices=False)
    return (u * s)[:, :RANK], vt[:RANK]


@pytest.mark.parametrize("layer_class", LAYERS)
@pytest.mark.parametrize("kind", ["bias", "no-bias", "conv1d"])
def test_a_layer_of_that_rank_is_the_same_and_goes_back_to_it(layer_class: type[FactoredLinear], kind: str) -> None:
    module = linear(kind)
    layer = from_factors(layer_class, module, *factors(module))
    x = torch.randn(2, 3, IN)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), module(x), rtol=1e-4, atol=1e-4)
        dense = layer.to_dense()
        assert type(dense) is type(module)
        torch.testing.assert_close(dense(x), module(x), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(layer.weight, weight_matrix(module), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(layer.dense_weight(), weight_matrix(module).double(), rtol=1e-4, atol=1e-4)
        # As of a linear layer: None or a tensor, whatever the children hold.
        assert (layer.bias is None) is (module.bias is None)
        if module.bias is not None:
            torch.testing.assert_close(layer.bias, module.bias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer_class", LAYERS)
def test_a_layer_of_a_lower_rank_is_the_product_of_the_factors(layer_class: type[FactoredLinear]) -> None:
    module = linear("bias").double()
    second, first = (factor.double() for factor in factors(module))
    layer = from_factors(layer_class, module, second[:, :3], first[:3])
    torch.testing.assert_close(layer.dense_weight(), second[:, :3] @ first[:3])
    x = torch.randn(4, IN, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ (second[:, :3] @ first[:3]).T + module.bias)
    torch.testing.assert_close(layer.to_dense().bias, module.bias)


@pytest.mark.parametrize("layer_class", LAYERS)
def test_children_are_two_plain_linears(layer_class: type[FactoredLinear]) -> None:
    layer = layer_class.empty_like(linear("bias"), 3)
    assert [(name, type(child)) for name, child in layer.named_children()] == [
        ("first", nn.Linear),
        ("second", nn.Linear),
    ]
    assert "rank=3" in repr(layer)


@pytest.mark.parametrize("layer_class", LAYERS)
def test_device_and_dtype_are_those_of_the_replaced_layer(layer_class: type[FactoredLinear]) -> None:
    layer = layer_class.empty_like(nn.Linear(5, 7, device="meta", dtype=torch.bfloat16), 2)
    assert all(p.is_meta and p.dtype is torch.bfloat16 for p in layer.parameters())
    assert all(buffer.is_meta for buffer in layer.buffers())


@pytest.mark.parametrize("layer_class", LAYERS)
def test_numbers_are_those_that_will_be_stored(layer_class: type[FactoredLinear]) -> None:
    module = linear("bias").bfloat16().float()
    layer = from_factors(layer_class, module, *factors(module), stored=torch.bfloat16)
    for parameter in layer.parameters():
        assert parameter.dtype is torch.float32
        assert torch.equal(parameter, parameter.bfloat16().float())


@pytest.mark.parametrize("layer_class", LAYERS)
def test_both_children_are_trained(layer_class: type[FactoredLinear]) -> None:
    module = linear("bias").double()
    layer = from_factors(layer_class, module, *factors(module))
    x = torch.randn(4, IN, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    layer(x).square().sum().backward()
    assert all(parameter.grad.norm() > 0 for parameter in layer.parameters())


@pytest.mark.parametrize("layer_class", LAYERS)
@pytest.mark.parametrize("kind", ["bias", "no-bias", "conv1d"])
@pytest.mark.parametrize("scheme", [None, QuantScheme(8), QuantScheme(4, 2)], ids=str)
def test_a_constant_is_added_to_the_bias_for_the_weight_as_it_is_stored(
    layer_class: type[FactoredLinear], kind: str, scheme: QuantScheme | None
) -> None:
    module = linear(kind).bfloat16().float()
    mean, goal = torch.randn(IN, dtype=torch.float64), torch.randn(OUT, dtype=torch.float64)
    second, first = factors(module)
    identity = Whitening.identity(IN)
    fit = Fit(second.double() @ first.double(), identity, constant=lambda product: goal - product @ mean)
    layer = from_factors(layer_class, module, second, first, torch.bfloat16, scheme=scheme, fit=fit)
    before = bias_vector(module)
    wanted = goal + (0 if before is None else before.detach().double())
    with torch.no_grad():
        # On the mean of the inputs, the outputs are those that are wanted, whatever rounding did to the weight.
        torch.testing.assert_close(layer(mean.float()).double(), wanted, rtol=0.02, atol=0.05)
        dense = layer.to_dense()
        torch.testing.assert_close(dense(mean.float()), layer(mean.float()), rtol=1e-4, atol=1e-4)
    assert type(dense) is type(module)
    assert all(torch.equal(p, p.bfloat16().float()) for p in layer.parameters())
    empty = layer_class.empty_like(module, RANK, scheme, affine=True)
    assert empty.state_dict().keys() == layer.state_dict().keys()
