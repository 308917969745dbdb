"""A base of few bits and factors for what it lacks, against dense float64 products and the published formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from eckart.layers import HybridLinear, QuantizedLinear, bias_vector, weight_matrix
from eckart.maths.quantization import QuantScheme
from eckart.maths.whitening import Whitening, whiten
from eckart.methods.precision import Bits2, Bits3, Bits4, Bits8
from eckart.methods.structure import Hybrid
from eckart.methods.structure.fitting import Fit
from eckart.methods.structure.fitting.base import set_bias

BASES = [QuantScheme(4, 8), QuantScheme(4, 128), QuantScheme(8), QuantScheme(3, 8), QuantScheme(2, 4)]
OUT, IN = 20, 28


def make(kind: str = "bias") -> Any:
    torch.manual_seed(0)
    module: Any = Conv1D(OUT, IN) if kind == "conv1d" else nn.Linear(IN, OUT, bias=kind == "bias")
    with torch.no_grad():
        weight_matrix(module).normal_()
    if kind != "no-bias":
        nn.init.normal_(module.bias)
    return module


def moment(rank: int = IN) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(IN, rank, dtype=torch.float64, generator=generator)
    inputs = inputs @ torch.randn(rank, 200, dtype=torch.float64, generator=generator)
    return inputs @ inputs.T


def fit_of(module: nn.Module, metric: Whitening | None = None, inputs: int = IN) -> Fit:
    return Fit(weight_matrix(module).detach().double(), whiten(moment(inputs)), metric)


def solved(
    module: nn.Module,
    fit: Fit,
    rank: int,
    base: QuantScheme = BASES[0],
    scheme: QuantScheme | None = None,
    *,
    stored: torch.dtype | None = None,
    alternations: int = 0,
    base_feedback: bool = True,
    feedback: bool = True,
) -> tuple[HybridLinear, float]:
    layer = HybridLinear.empty_like(module, rank, scheme, base=base)
    precision = {8: Bits8, 4: Bits4, 3: Bits3, 2: Bits2}[base.bits](group=base.group, feedback=base_feedback)
    fitter = Hybrid(base=precision, alternations=alternations).fitter
    loss = fitter.solve_for(layer, fit, stored, feedback=feedback)
    set_bias(layer, module)
    return layer, loss


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", ["bias", "no-bias", "conv1d"])
def test_outputs_are_those_of_the_dense_product(base: QuantScheme, kind: str) -> None:
    module = make(kind).double()
    layer, loss = solved(module, fit_of(module), 3, base, alternations=1)
    x = torch.randn(2, 3, IN, dtype=torch.float64)
    weight = layer.base.weight + layer.second.weight @ layer.first.weight
    bias = bias_vector(module)
    expected = x @ weight.T + (0 if bias is None else bias)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.dense_weight(), weight.detach())
    torch.testing.assert_close(layer.weight, weight)
    assert type(layer.to_dense()) is type(module)
    torch.testing.assert_close(layer.to_dense()(x), expected)
    assert loss == pytest.approx(fit_of(module).loss(layer.dense_weight()))
    assert layer.base.bias is None
    assert layer.first.bias is None
    assert (layer.second.bias is None) == (kind == "no-bias")
    assert isinstance(layer.base, QuantizedLinear)


def test_numbers_are_those_that_will_be_stored() -> None:
    module = make().bfloat16().float()
    layer, loss = solved(module, fit_of(module), 4, stored=torch.bfloat16)
    for parameter in layer.parameters():
        assert parameter.dtype is torch.float32
        assert torch.equal(parameter, parameter.bfloat16().float())
    assert loss == pytest.approx(fit_of(module).loss(layer.dense_weight()))


def test_zero_weights_and_equal_rows() -> None:
    module = make()
    with torch.no_grad():
        module.weight.zero_()
    layer, loss = solved(module, fit_of(module), 2, alternations=2)
    assert loss == 0
    assert torch.equal(layer(torch.ones(1, IN)), module.bias[None])
    with torch.no_grad():
        module.weight.copy_(torch.randn(1, IN).expand(OUT, -1))
    layer, _ = solved(module, fit_of(module), 1)
    torch.testing.assert_close(layer.dense_weight().float(), module.weight.detach(), rtol=1e-4, atol=1e-4)


def test_scales_and_factors_are_trained_and_it_exports() -> None:
    module = make()
    layer, _ = solved(module, fit_of(module), 3)
    x = torch.randn(4, IN, requires_grad=True)
    layer(x).square().sum().backward()
    assert x.grad is not None
    assert {name for name, p in layer.named_parameters() if p.grad is not None and p.grad.norm() > 0} == {
        "base.scale",
        "first.weight",
        "second.weight",
        "second.bias",
    }
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))
    assert "rank=3" in repr(layer)
    half = layer.bfloat16()
    assert half(x.bfloat16()).dtype is torch.bfloat16
    assert half.base.codes.dtype is torch.uint8
