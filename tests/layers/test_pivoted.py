from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.layers.helpers import from_factors
from torch import nn

from eckart.layers import LowRankLinear, PivotedLinear, weight_matrix
from eckart.layers.pivoted import index_dtype
from eckart.maths.whitening import whiten
from eckart.methods.structure.fitting import Fit


def make(rank: int = 3, **options: Any) -> tuple[nn.Linear, PivotedLinear, LowRankLinear]:
    torch.manual_seed(1)
    module = nn.Linear(20, 30)
    second, first = torch.randn(30, rank, dtype=torch.float64), torch.randn(rank, 20, dtype=torch.float64)
    made = [from_factors(kind, module, second, first, **options) for kind in (PivotedLinear, LowRankLinear)]
    return module, *made


def test_some_outputs_are_those_of_the_first_factor() -> None:
    module, layer, _ = make()
    assert {name: tuple(t.shape) for name, t in layer.state_dict().items()} == {
        "first.weight": (3, 20),
        "first.bias": (3,),
        "second.weight": (27, 3),
        "second.bias": (27,),
        "index": (30,),
    }
    assert layer.index is not None
    pivots = (layer.index < 3).nonzero()[:, 0]
    torch.testing.assert_close(layer.dense_weight()[pivots].float(), layer.first.weight)
    torch.testing.assert_close(layer.first.bias, module.bias[pivots])
    assert layer.second.weight.abs().max() < 1.2


@pytest.mark.parametrize("rank", [1, 10, 19])
def test_in_bfloat16_it_is_as_near_as_two_factors(rank: int) -> None:
    _, pivoted, two_factor = make(rank, stored=torch.bfloat16)
    _, exact, _ = make(rank)
    x = torch.randn(500, 20)
    with torch.no_grad():
        errors = [
            float((layer.bfloat16()(x.bfloat16()).double() - exact.double()(x.double())).norm())
            for layer in (pivoted, two_factor)
        ]
    assert errors[0] < 1.1 * errors[1]


def test_a_zero_weight_and_equal_rows_are_laid_out_too() -> None:
    module = nn.Linear(4, 6)
    zero = from_factors(PivotedLinear, module, torch.zeros(6, 2), torch.zeros(2, 4))
    assert torch.equal(zero(torch.ones(1, 4)), module.bias[None])
    equal = from_factors(PivotedLinear, module, torch.ones(6, 1), torch.ones(1, 4))
    torch.testing.assert_close(equal.dense_weight(), torch.ones(6, 4, dtype=torch.float64))


@pytest.mark.parametrize("rank", [7, 8])
def test_a_rank_that_leaves_no_row_to_combine_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match="has a rank below that"):
        PivotedLinear(9, 7, rank)


def test_the_index_is_small_and_keeps_its_dtype() -> None:
    assert index_dtype(32768) is torch.int16
    assert index_dtype(32769) is torch.int32
    largest = PivotedLinear(1, 32768, 1)
    assert largest.has_valid_index()
    assert largest.index is not None
    assert int(largest.index[-1]) == 32767
    _, layer, _ = make()
    index = layer.half().index
    assert index is not None
    assert index.dtype is torch.int16
    index[0] = index[1]
    assert not layer.has_valid_index()


def test_it_compiles_and_exports() -> None:
    _, layer, _ = make()
    x = torch.randn(2, 3, 20)
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x), layer(x))
    assert weight_matrix(layer).shape == (30, 20)


def test_in_bfloat16_what_rounding_loses_is_made_up_for() -> None:
    generator = torch.Generator().manual_seed(1)
    second = torch.randn(96, 40, generator=generator, dtype=torch.float64)
    first = torch.randn(40, 64, generator=generator, dtype=torch.float64)
    inputs = torch.randn(64, 64, generator=generator, dtype=torch.float64)
    inputs = inputs @ torch.randn(64, 500, generator=generator, dtype=torch.float64)
    linear = nn.Linear(64, 96, bias=False).bfloat16()
    # The target is of another rank: in 16 bits nothing but the rounding may be made up for.
    fit = Fit(torch.randn(96, 64, generator=generator, dtype=torch.float64), whiten(inputs @ inputs.T))
    lost = []
    for given in (None, fit):
        layer = from_factors(PivotedLinear, linear, second, first, fit=given)
        lost.append(float(((layer.dense_weight() - second @ first) @ inputs).norm()))
    assert lost[1] < 0.7 * lost[0]
