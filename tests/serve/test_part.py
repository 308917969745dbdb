"""Every layout in the form that is served, whole and cut over devices, against the layer itself."""

from __future__ import annotations

import pytest
import torch
from tests.serve.helpers import ALL, inputs_of, random_layer, run, without_bias
from torch import nn

from eckart.errors import ServingError
from eckart.layers import DictionaryLinear, FactoredLinear, KeptColumnsLinear, Mask
from eckart.serve.part import check_form, part_of, take_inputs, take_outputs

SHAPES = [(24, 32), (32, 24), (32, 32)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ALL)
def test_the_whole_part_is_the_layer(layout: str, shape: tuple[int, int]) -> None:
    layer = random_layer(layout, *shape, bias=True)
    part = part_of(layer)
    inputs = inputs_of(shape[1])
    assert part.outputs() == shape[0]
    assert torch.allclose(run(part, inputs), without_bias(layer, inputs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ALL)
def test_outputs_of_each_device(layout: str, shape: tuple[int, int]) -> None:
    layer = random_layer(layout, *shape)
    inputs = inputs_of(shape[1])
    whole = layer(inputs)
    for rows in (torch.arange(8), torch.arange(8, 24), torch.tensor([5, 23, 0, 11, 12])):
        part = take_outputs(part_of(layer), rows)
        assert part.outputs() == len(rows)
        assert torch.allclose(run(part, inputs), whole[:, rows], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ALL)
@pytest.mark.parametrize("width", [8, 16])
def test_inputs_of_each_device_add_up(layout: str, shape: tuple[int, int], width: int) -> None:
    layer = random_layer(layout, *shape)
    inputs = inputs_of(shape[1])
    total = torch.zeros_like(layer(inputs))
    for start in range(0, shape[1], width):
        stop = min(start + width, shape[1])
        part = take_inputs(part_of(layer), slice(start, stop))
        total += run(part, inputs[:, start:stop])
    assert torch.allclose(total, layer(inputs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "layer",
    [KeptColumnsLinear(8, 6, 2, columns=1), DictionaryLinear(8, 6, 2, pattern=Mask(6))],
    ids=lambda layer: type(layer).__name__,
)
def test_layouts_without_a_form_are_refused_at_once(layer: FactoredLinear) -> None:
    for refused in (lambda: check_form(type(layer)), lambda: part_of(layer)):
        with pytest.raises(ServingError, match=r"cannot be served; expected one of LowRankLinear, .*`eckart merge`"):
            refused()


def test_the_second_factor_is_cut_and_the_first_is_not() -> None:
    part = take_outputs(part_of(random_layer("two-factor")), torch.arange(6))
    assert part.inner[0][1].weight.shape == (8, 32)
    assert part.outer[0].weight.shape == (6, 8)
    pivoted = take_outputs(part_of(random_layer("pivoted")), torch.arange(6))
    assert pivoted.outer[0].out_features <= 6
    assert pivoted.order is not None
    assert len(pivoted.order) == 6


def test_a_whole_weight_is_cut_and_not_copied() -> None:
    part = take_outputs(part_of(random_layer("dense")), torch.arange(6))
    assert part.inner[0][1].weight.shape == (6, 32)
    assert part.order is None


def test_a_layer_of_somebody_else_is_refused_by_name() -> None:
    with pytest.raises(ServingError, match="A layer of class Bilinear cannot be served"):
        part_of(nn.Bilinear(2, 2, 2))


def test_a_copy_is_on_the_device() -> None:
    for layout in ALL:
        part = part_of(random_layer(layout))
        copy = part.to(torch.device("cpu"))
        assert torch.equal(run(copy, inputs_of()), run(part, inputs_of()))
        assert copy.inner[0][1] is not part.inner[0][1]
