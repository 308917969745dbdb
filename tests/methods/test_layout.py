from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from eckart.layers import QuantizedLinear, weight_matrix
from eckart.maths.whitening import whiten
from eckart.methods.layout import Layout, dense_bytes
from eckart.methods.precision import Bits4, Bits8, Bits16, SemiStructured
from eckart.methods.structure import STRUCTURES, Dictionary, Hybrid, Structure, TwoFactor
from eckart.methods.structure.fitting import Fit

LAYOUTS = [
    Layout(kind.model_validate({}), precision)
    for kind in STRUCTURES.values()
    for precision in (Bits16(), Bits8(), Bits8(group=5), Bits4(), Bits4(group=8, feedback=False))
    if precision == Bits16() or not kind.own_precision
]
LAYOUTS += [Layout(Hybrid(base=base)) for base in (Bits8(), SemiStructured())]
LAYOUTS += [
    Layout(kind.model_validate({}), precision, affine=True)
    for kind in STRUCTURES.values()
    for precision in (Bits16(), Bits4())
    if precision == Bits16() or not kind.own_precision
]
sides = st.integers(1, 24)
layouts = pytest.mark.parametrize(
    "layout", LAYOUTS, ids=lambda layout: f"{layout.structure.name}-{layout.precision}{'-affine' * layout.affine}"
)


def stored_bytes(layer: nn.Module) -> int:
    return sum(tensor.numel() * min(tensor.element_size(), 2) for tensor in layer.state_dict().values())


@layouts
@settings(max_examples=30)
@given(out_features=sides, in_features=sides)
def test_costs_are_those_of_the_layer_and_rise_with_the_rank(
    layout: Layout, out_features: int, in_features: int
) -> None:
    linear = nn.Linear(in_features, out_features, bias=False, device="meta", dtype=torch.bfloat16)
    assert layout.bytes(out_features, in_features, None) == stored_bytes(layout.empty_like(linear, None))
    costs = []
    for rank in range(1, layout.highest_rank(out_features, in_features) + 1):
        costs.append(layout.bytes(out_features, in_features, rank))
        assert costs[-1] == stored_bytes(layout.empty_like(linear, rank))
    assert costs == sorted(costs)


@layouts
@given(out_features=sides, in_features=sides, data=st.data())
def test_the_largest_rank_within_a_budget_by_brute_force(
    layout: Layout, out_features: int, in_features: int, data: st.DataObject
) -> None:
    whole = layout.bytes(out_features, in_features, None)
    budget = data.draw(st.integers(0, whole + 10))
    found = layout.largest_rank(out_features, in_features, budget)
    ranks = range(1, layout.highest_rank(out_features, in_features) + 1)
    cheaper = [rank for rank in ranks if layout.bytes(out_features, in_features, rank) < whole]
    if budget >= whole or not cheaper:
        assert found is None
        return
    fitting = [rank for rank in cheaper if layout.bytes(out_features, in_features, rank) <= budget]
    assert found == max(fitting, default=1)


def test_a_rank_must_save_something() -> None:
    layout = Layout(TwoFactor())
    assert dense_bytes(10, 20) == 400
    assert layout.bytes(10, 20, 3) == 2 * 3 * 30
    assert layout.largest_rank(10, 20, 400) is None
    assert layout.largest_rank(10, 20, 399) == 6
    assert layout.largest_rank(10, 20, 1) == 1
    # Rank 1 of a vector costs more than the vector.
    assert layout.largest_rank(1, 20, 30) is None


@layouts
def test_layers_hold_what_they_are_given_as_well_as_their_numbers_can(layout: Layout) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(24, 20)
    second, first = torch.randn(20, 6, dtype=torch.float64), torch.randn(6, 24, dtype=torch.float64)
    inputs = torch.randn(24, 200, dtype=torch.float64)
    fit = Fit(second @ first, whiten(inputs @ inputs.T))
    layer = layout.factored(linear, second, first, torch.float32, fit)
    error = (layer.dense_weight() - second @ first).norm() / (second @ first).norm()
    bits = int(layout.precision.name.split("-")[0])
    if layout.structure.own_precision or layout.structure.adds_to_base:
        bits = 8 if layout.structure.own_precision or layout.structure == Hybrid(base=Bits8()) else 4
    assert error < ({16: 1e-5, 8: 0.02, 4: 0.2}[bits] if not isinstance(layout.structure, Dictionary) else 0.9)
    torch.testing.assert_close(layer.dense_bias(), linear.bias, rtol=1e-4, atol=1e-4)
    if layout.changes(None):
        whole = layout.unfactored(linear, weight_matrix(linear).double(), torch.float32, fit)
        assert isinstance(whole, QuantizedLinear)
        assert (whole.dense_weight() - linear.weight).norm() < 0.2 * linear.weight.norm()
        assert whole.bias is not None
        assert torch.equal(whole.bias, linear.bias)


@pytest.mark.parametrize("structure", [kind.model_validate({}) for kind in STRUCTURES.values()], ids=str)
def test_a_new_bias_is_counted_and_one_that_was_there_is_not(structure: Structure) -> None:
    plain, affine = Layout(structure), Layout(structure, affine=True)
    assert affine.bytes(30, 20, 4) == plain.bytes(30, 20, 4) + 2 * 30
    assert affine.bytes(30, 20, None) == plain.bytes(30, 20, None)
    assert affine.beside_bias(False) is affine
    assert affine.beside_bias(True) == plain
    assert plain.beside_bias(True) is plain


def test_weights_that_are_not_factored_get_no_bias() -> None:
    linear = nn.Linear(24, 20, bias=False)
    assert Layout(affine=True).empty_like(linear, None) is linear
    assert Layout(precision=Bits8(), affine=True).empty_like(linear, None).bias is None
