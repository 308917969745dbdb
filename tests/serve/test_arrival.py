"""Tensors that come one by one, in any order, damaged or not at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.serve.helpers import ALL, LAYOUTS, inputs_of, random_layer, run
from torch import Tensor, nn

from eckart.errors import ServingError
from eckart.layers import HybridLinear, PivotedLinear, QuantizedLinear
from eckart.methods.precision import Bits2
from eckart.serve.arrival import Arrival, empty_layer
from eckart.serve.plan import PartPlan

CPU = torch.device("cpu")


def plan(layout: str = "two-factor", rank: int | None = 8) -> PartPlan:
    factored = layout in LAYOUTS
    return PartPlan("m.0.q", "", None, (0,), rank if factored else None, layout != "dense")


def arrival(
    layout: str = "two-factor", rows: Tensor | None = None, columns: slice | None = None, *, bias: bool = False
) -> Arrival:
    layer = empty_layer(plan(layout), ALL[layout], (24, 32), bias=bias, ordered=False, dtype=torch.float64)
    return Arrival(plan(layout), layer, rows, columns, CPU)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", ALL)
def test_all_tensors_make_the_layer(layout: str, bias: bool) -> None:
    layer: Any = random_layer(layout, bias=bias)
    found = arrival(layout, bias=bias)
    tensors = dict(reversed(layer.state_dict().items()))
    assert sorted(found.missing()) == sorted(f"m.0.q.{name}" for name in tensors)
    for name, tensor in tensors.items():
        assert found.part is None
        found.add(name, tensor)
    assert found.missing() == []
    assert found.part is not None
    outputs = run(found.part, inputs_of())
    if bias:
        assert found.bias is not None
        outputs = outputs + found.bias
    assert torch.allclose(outputs, layer(inputs_of()), rtol=1e-9, atol=1e-9)


def test_a_part_with_a_base_of_its_own() -> None:
    own = replace(plan("hybrid"), layout=ALL["hybrid"].based_on(Bits2(group=16)))
    layer = empty_layer(own, ALL["hybrid"], (24, 32), bias=False, ordered=False, dtype=torch.float64)
    assert isinstance(layer, HybridLinear)
    assert isinstance(layer.base, QuantizedLinear)
    assert layer.base.scheme.bits == 2
    whole = empty_layer(
        replace(own, rank=None), ALL["hybrid"], (24, 32), bias=False, ordered=False, dtype=torch.float64
    )
    assert isinstance(whole, QuantizedLinear)
    assert whole.scheme == layer.base.scheme


def test_a_device_keeps_its_share_alone() -> None:
    layer: Any = random_layer("two-factor", bias=True)
    rows = torch.arange(6, 12)
    found = arrival(rows=rows, bias=True)
    for name, tensor in layer.state_dict().items():
        found.add(name, tensor)
    assert found.part is not None
    assert found.bias is not None
    assert found.part.outer[0].weight.shape == (6, 8)
    assert found.bias.untyped_storage().nbytes() == 6 * 8
    assert torch.allclose(run(found.part, inputs_of()) + found.bias, layer(inputs_of())[:, rows])


def test_what_is_no_code_takes_the_dtype_of_the_engine() -> None:
    found = arrival("two-factor-8")
    for name, tensor in random_layer("two-factor-8").state_dict().items():
        found.add(name, tensor.bfloat16() if tensor.is_floating_point() else tensor)
    assert found.part is not None
    assert found.part.inner[0][1].scale.dtype is torch.float64


def test_a_missing_factor_is_named() -> None:
    found = arrival()
    found.add("first.weight", torch.zeros(8, 32))
    assert found.missing() == ["m.0.q.second.weight"]
    assert found.part is None


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("first.weight", torch.zeros(9, 32), r"m\.0\.q\.first\.weight of shape \(9, 32\); expected \(8, 32\)"),
        ("second.bias", torch.zeros(24), r"m\.0\.q\.second\.bias, which has no place in a layer of rank 8"),
        ("first.weight", torch.zeros(8, 32, dtype=torch.int8), r"as torch\.int8; expected torch\.float64"),
        ("first.weight", torch.full((8, 32), torch.nan), r"NaN or infinite numbers in m\.0\.q\.first\.weight"),
    ],
)
def test_damaged_tensors_are_refused(name: str, tensor: Tensor, words: str) -> None:
    with pytest.raises(ServingError, match=words):
        arrival().add(name, tensor)


def test_a_tensor_that_comes_twice() -> None:
    found = arrival()
    found.add("first.weight", torch.zeros(8, 32))
    with pytest.raises(ServingError, match="twice"):
        found.add("first.weight", torch.zeros(8, 32))
    found.add("second.weight", torch.zeros(24, 8))
    with pytest.raises(ServingError, match="twice"):
        found.add("second.weight", torch.zeros(24, 8))


def test_codes_of_another_kind() -> None:
    with pytest.raises(ServingError, match=r"as torch\.int16; expected torch\.int8"):
        arrival("8-bit").add("codes", torch.zeros(24, 32, dtype=torch.int16))


def test_an_index_that_names_an_output_twice() -> None:
    found, layer = arrival("pivoted"), random_layer("pivoted")
    tensors = dict(layer.state_dict())
    index = tensors.pop("index")
    for name, tensor in tensors.items():
        found.add(name, tensor)
    with pytest.raises(ServingError, match=r"index of m\.0\.q does not name each of its outputs once"):
        found.add("index", torch.zeros_like(index))


def test_a_cut_that_is_too_small_names_the_layer() -> None:
    found = arrival("4-bit", columns=slice(0, 4))
    tensors = random_layer("4-bit").state_dict()
    found.add("codes", tensors["codes"])
    with pytest.raises(ServingError, match=r"m\.0\.q cannot be cut over devices\. Inputs 0 to 4 cut groups of 16"):
        found.add("scale", tensors["scale"])


@pytest.mark.parametrize("rank", [0, 25])
def test_a_rank_that_cannot_be(rank: int) -> None:
    with pytest.raises(ServingError, match=f"the rank {rank}; expected a whole number from 1 to 24"):
        empty_layer(plan(rank=rank), ALL["two-factor"], (24, 32), bias=False, ordered=False, dtype=torch.float32)


def test_a_layer_in_order_has_no_index() -> None:
    layer = empty_layer(plan("pivoted"), ALL["pivoted"], (24, 32), bias=False, ordered=True, dtype=torch.float32)
    assert isinstance(layer, PivotedLinear)
    assert layer.index is None
    assert all(parameter.is_meta for parameter in layer.parameters())


@pytest.mark.parametrize("layout", ALL)
def test_numbers_that_mean_nothing(layout: str) -> None:
    found = arrival(layout, torch.arange(12))
    found.fill()
    assert found.part is not None
    assert run(found.part, inputs_of()).shape == (3, 12)


def test_a_plain_linear_is_loaded_as_one() -> None:
    layer = empty_layer(plan("dense"), ALL["two-factor"], (24, 32), bias=True, ordered=False, dtype=torch.float32)
    assert type(layer) is nn.Linear
