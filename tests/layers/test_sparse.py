from __future__ import annotations

import pytest
import torch
from torch import nn

from eckart.layers import HybridLinear, Pattern, SparseLinear, fill_child
from eckart.maths.whitening import whiten
from eckart.methods.precision import SemiStructured
from eckart.methods.structure import Hybrid
from eckart.methods.structure.fitting import Fit


@pytest.mark.parametrize("columns", [16, 18])
def test_outputs_are_those_of_the_weight_with_its_zeros(columns: int) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(columns, 6)
    layer = SparseLinear(columns, 6)
    fill_child(layer, linear.weight.double(), linear.bias)
    x = torch.randn(3, columns)
    torch.testing.assert_close(layer(x), x @ layer.weight.T + linear.bias)
    kept = layer.weight != 0
    assert torch.equal(layer.weight[kept], linear.weight[kept])
    assert int(kept.sum()) == 6 * (columns // 4 * 2 + columns % 4)
    half = SparseLinear(columns, 6, bias=False, dtype=torch.bfloat16)
    assert sum(tensor.nbytes for tensor in half.state_dict().values()) == SemiStructured().bytes(6, columns)
    assert half(x.bfloat16()).dtype is torch.bfloat16
    assert not half.weight.any()
    assert "2-of-4" in repr(layer)


def test_numbers_that_stay_are_trained_and_it_exports() -> None:
    layer = SparseLinear(8, 5)
    fill_child(layer, torch.randn(5, 8, dtype=torch.float64), torch.zeros(5), torch.bfloat16)
    assert torch.equal(layer.values, layer.values.bfloat16().float())
    x = torch.randn(4, 8, requires_grad=True)
    before = layer.weight.detach() == 0
    layer(x).square().sum().backward()
    assert layer.values.grad is not None
    assert layer.values.grad.norm() > 0
    with torch.no_grad():
        layer.values.sub_(layer.values.grad)
    assert torch.equal(layer.weight == 0, before)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


@pytest.mark.parametrize("columns", [28, 30])
def test_factors_beside_it_take_back_what_it_lost(columns: int) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(columns, 20)
    inputs = torch.randn(columns, 100, dtype=torch.float64)
    fit = Fit(linear.weight.detach().double(), whiten(inputs @ inputs.T))
    losses = []
    for rank, alternations in ((1, 0), (6, 0), (6, 1), (6, 3)):
        layer = HybridLinear.empty_like(linear, rank, base=Pattern.TWO_OF_FOUR)
        losses.append(Hybrid(base=SemiStructured(), alternations=alternations).fitter.solve_for(layer, fit))
        assert losses[-1] == pytest.approx(fit.loss(layer.dense_weight()))
    alone = SparseLinear(columns, 20)
    fill_child(alone, fit.target, linear.bias, None, fit.second_moment)
    assert losses[0] < fit.loss(alone.weight.detach().double())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[1]
    layer = HybridLinear.empty_like(linear, 20, base=Pattern.TWO_OF_FOUR)
    Hybrid(base=SemiStructured(), alternations=0).fitter.solve_for(layer, fit)
    torch.testing.assert_close(layer.dense_weight().float(), linear.weight.detach(), rtol=1e-4, atol=1e-4)
