from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from eckart.layers import QuantizedLinear, bias_vector, fill_child, weight_matrix
from eckart.maths.quantization import QuantScheme

GRIDS = [*(QuantScheme(8), QuantScheme(8, 4), QuantScheme(4, 4), QuantScheme(4)), QuantScheme(3, 4), QuantScheme(2, 4)]
BYTES = {8: 66, 4: 36, 3: 30, 2: 18}  # of 6 rows of 11 codes


def make(scheme: QuantScheme, linear: nn.Module | None = None) -> tuple[nn.Module, QuantizedLinear]:
    torch.manual_seed(0)
    linear = linear or nn.Linear(11, 6)
    layer = QuantizedLinear.empty_like(linear, scheme)
    fill_child(layer, weight_matrix(linear).double(), bias_vector(linear))
    return linear, layer


@pytest.mark.parametrize("scheme", GRIDS)
@pytest.mark.parametrize("kind", ["bias", "no-bias", "conv1d"])
def test_it_is_the_linear_layer_with_its_rounded_weight(scheme: QuantScheme, kind: str) -> None:
    linear, layer = make(scheme, Conv1D(6, 11) if kind == "conv1d" else nn.Linear(11, 6, bias=kind == "bias"))
    x = torch.randn(2, 3, 11)
    dense = layer.to_dense()
    assert type(dense) is type(linear)
    torch.testing.assert_close(layer(x), dense(x))
    torch.testing.assert_close(weight_matrix(dense), layer.weight)
    torch.testing.assert_close(layer.dense_weight().float(), layer.weight)
    most = 0.2 if scheme.bits >= 4 else 0.3
    assert (layer.weight - weight_matrix(linear)).norm() < most * weight_matrix(linear).norm()
    assert "bits=" in repr(layer)


@pytest.mark.parametrize("scheme", GRIDS)
def test_few_bits_are_held_in_memory_and_survive_a_change_of_dtype(scheme: QuantScheme) -> None:
    _, layer = make(scheme)
    codes = layer.codes.clone()
    assert layer.codes.nbytes == BYTES[scheme.bits]
    layer.bfloat16()
    assert layer.scale.dtype is torch.bfloat16
    assert torch.equal(layer.codes, codes)
    x = torch.randn(4, 11)
    assert layer(x.bfloat16()).dtype is torch.bfloat16
    torch.testing.assert_close(layer(x.bfloat16()).float(), layer.to_dense().float()(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("scheme", GRIDS)
def test_scales_are_rounded_before_the_codes_are_chosen(scheme: QuantScheme) -> None:
    linear = nn.Linear(11, 6)
    layer = QuantizedLinear.empty_like(linear, scheme)
    fill_child(layer, linear.weight.double(), linear.bias, torch.bfloat16)
    assert torch.equal(layer.scale, layer.scale.bfloat16().float())
    assert layer.bias is not None
    assert torch.equal(layer.bias, linear.bias.bfloat16().float())


@pytest.mark.parametrize("scheme", GRIDS)
def test_scales_train_and_it_exports(scheme: QuantScheme) -> None:
    _, layer = make(scheme)
    x = torch.randn(4, 11, requires_grad=True)
    layer(x).square().sum().backward()
    assert x.grad is not None
    assert layer.scale.grad is not None
    assert layer.scale.grad.norm() > 0
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))
