from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from eckart.layers import QuantizedLinear, bias_vector, fill_child, weight_matrix
from eckart.maths.quantization import QuantScheme, find_scales

GRIDS = [*(QuantScheme(8), QuantScheme(8, 4), QuantScheme(4, 4), QuantScheme(4)), QuantScheme(3, 4), QuantScheme(2, 4)]
GRIDS += [QuantScheme(4, 4, scale_bits=8), QuantScheme(2, 4, scale_bits=8)]
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
    assert layer.scale_parameter.dtype is layer.scales().dtype is torch.bfloat16
    assert torch.equal(layer.codes, codes)
    x = torch.randn(4, 11)
    assert layer(x.bfloat16()).dtype is torch.bfloat16
    torch.testing.assert_close(layer(x.bfloat16()).float(), layer.to_dense().float()(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("scheme", GRIDS)
def test_scales_are_rounded_before_the_codes_are_chosen(scheme: QuantScheme) -> None:
    linear = nn.Linear(11, 6)
    layer = QuantizedLinear.empty_like(linear, scheme)
    fill_child(layer, linear.weight.double(), linear.bias, torch.bfloat16)
    assert torch.equal(layer.scales(), layer.scales().bfloat16().float())
    assert layer.bias is not None
    assert torch.equal(layer.bias, linear.bias.bfloat16().float())


@pytest.mark.parametrize("scheme", GRIDS)
def test_scales_train_and_it_exports(scheme: QuantScheme) -> None:
    _, layer = make(scheme)
    x = torch.randn(4, 11, requires_grad=True)
    layer(x).square().sum().backward()
    assert x.grad is not None
    assert layer.scale_parameter.grad is not None
    assert layer.scale_parameter.grad.norm() > 0
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_scales_of_8_bits_are_those_that_codes_were_chosen_for(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(24, 6, dtype=dtype)
    layer = QuantizedLinear.empty_like(linear, QuantScheme(3, 4, scale_bits=8))
    fill_child(layer, linear.weight.double(), linear.bias)
    scales = find_scales(linear.weight.detach().double(), layer.scheme, stored=dtype)
    assert torch.equal(layer.scales(), scales)
    assert torch.equal(layer.scales(torch.tensor([4, 1])), scales[[4, 1]])
    assert layer.scale_codes.dtype is torch.int8
    assert layer.scale_codes.shape == scales.shape
    assert layer.row_scale.shape == (6, 1)
    assert sum(tensor[:1].nbytes for tensor in layer.by_rows) == 9 + 6 + dtype.itemsize
