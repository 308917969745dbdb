"""Shares of devices in a layer, and a fused layer of several parts on each of them."""

from __future__ import annotations

import pytest
import torch
from tests.serve.helpers import LAYOUTS, inputs_of, random_layer

from eckart.serve.cut import Cut
from eckart.serve.part import part_of, take_inputs, take_outputs
from eckart.serve.product import Product


def test_one_device_has_everything() -> None:
    cut = Cut.by_outputs(32, [16, 8, 8], [1, 1, 1], 0, 1)
    assert cut.sizes == (16, 8, 8)
    assert cut.rows([0]) is None
    assert cut.rows([0, 1, 2]) is None
    assert cut.columns is None
    assert Cut.by_inputs(32, [24], 0, 1).columns is None


def test_keys_and_values_that_several_devices_have() -> None:
    """4 devices, 2 heads of keys: devices 0 and 1 have the first, 2 and 3 the second."""
    for rank in range(4):
        cut = Cut.by_outputs(32, [8, 4, 4], [1, 2, 2], rank, 4)
        assert cut.sizes == (32, 8, 8)
        assert cut.starts == (8 * rank, 4 * (rank // 2), 4 * (rank // 2))
    rows = cut.rows([1, 2])
    assert rows is not None
    assert rows.tolist() == [4, 5, 6, 7, 12, 13, 14, 15]


def test_columns() -> None:
    assert Cut.by_inputs(32, [24], 1, 4).columns == slice(8, 16)


def test_parts_in_another_order() -> None:
    cut = Cut.by_outputs(32, [3, 2, 1], [1, 1, 1], 0, 2)
    assert cut.order([[0], [1, 2]]) is None
    order = cut.order([[2, 0], [1]])
    assert order is not None
    assert order.tolist() == [1, 2, 3, 4, 5, 0]


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_fused_layer_on_each_device(layout: str, devices: int) -> None:
    """q of 4 heads of 8, k and v of 2: a device has heads of each, or shares one; k is whole beside factors."""
    q, k, v = random_layer(layout, 32), random_layer("dense", 16), random_layer(layout, 16, rank=6)
    whole = [layer(inputs_of()) for layer in (q, k, v)]
    copies = max(devices // 2, 1)
    for rank in range(devices):
        local = [32 // devices, 16 * copies // devices, 16 * copies // devices]
        cut = Cut.by_outputs(32, local, [1, copies, copies], rank, devices)
        parts = []
        for shard, layer in enumerate((q, k, v)):
            rows = cut.rows([shard])
            parts.append(part_of(layer) if rows is None else take_outputs(part_of(layer), rows))
        expected = [
            outputs[:, start : start + size] for outputs, start, size in zip(whole, cut.starts, cut.local, strict=True)
        ]
        assert torch.allclose(Product(parts)(inputs_of()), torch.cat(expected, dim=-1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_shared_basis_on_each_device(layout: str) -> None:
    joint = random_layer(layout, 32 + 16 + 16)
    whole = joint(inputs_of()).split([32, 16, 16], dim=-1)
    for rank in range(2):
        cut = Cut.by_outputs(32, [16, 8, 8], [1, 1, 1], rank, 2)
        rows = cut.rows([0, 1, 2])
        assert rows is not None
        expected = [
            outputs[:, start : start + size] for outputs, start, size in zip(whole, cut.starts, cut.local, strict=True)
        ]
        found = Product([take_outputs(part_of(joint), rows)])(inputs_of())
        assert torch.allclose(found, torch.cat(expected, dim=-1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layer_cut_by_inputs_adds_up(layout: str) -> None:
    layer = random_layer(layout)
    total = torch.zeros(3, 24, dtype=torch.float64)
    for rank in range(4):
        columns = Cut.by_inputs(32, [24], rank, 4).columns
        assert columns is not None
        total += Product([take_inputs(part_of(layer), columns)])(inputs_of()[:, columns])
    assert torch.allclose(total, layer(inputs_of()), rtol=1e-9, atol=1e-9)
