from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from eckart.cache.rounded_maps import LARGEST_BLOCK, RotatedBlocks, RotatedMap, random_rotation
from eckart.cache.sources import FactoredSource, OutputSource
from eckart.layers import LowRankLinear


def source(rank: int = 6, outputs: int = 10, bias: bool = True) -> FactoredSource:
    torch.manual_seed(0)
    layer = LowRankLinear.empty_like(nn.Linear(12, outputs, bias=bias), rank).requires_grad_(False)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return FactoredSource(layer, {"k": slice(0, outputs - 3), "v": slice(outputs - 3, outputs)})


@given(rank=st.integers(1, 14), outputs=st.integers(4, 14), bias=st.booleans())
def test_a_rotated_map_gives_the_outputs_and_keeps_lengths(rank: int, outputs: int, bias: bool) -> None:
    """Also where there are more latents than outputs."""
    made = source(rank, outputs, bias)
    made.layer.double()
    turned = RotatedMap.of(made, ["k", "v"], torch.empty(0, dtype=torch.float64))
    latents = torch.randn(7, rank, dtype=torch.float64)
    found = turned.outputs(turned.numbers(latents), slice(0, outputs))
    torch.testing.assert_close(found, made.layer.decode(latents), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(turned.back.T @ turned.back, torch.eye(min(rank, outputs)))


@pytest.mark.parametrize(("width", "block"), [(192, 64), (1024, 128), (20, 4), (7, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_are_turned_in_blocks_and_back(width: int, block: int, bias: bool) -> None:
    layer = nn.Linear(12, width, bias=bias, dtype=torch.float64).requires_grad_(False)
    turned = RotatedBlocks.of(OutputSource(layer, {"k": slice(0, width)}), torch.empty(0, dtype=torch.float64))
    assert len(turned.rotation) == block <= LARGEST_BLOCK
    inputs = torch.randn(2, 5, 12, dtype=torch.float64)
    latents = layer(inputs) - (layer.bias if bias else 0)
    numbers = turned.numbers(latents)
    torch.testing.assert_close(numbers.norm(dim=-1), latents.norm(dim=-1).float())
    torch.testing.assert_close(turned.outputs(numbers, slice(0, width)), layer(inputs), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(turned.outputs(numbers, slice(1, 3)), layer(inputs)[..., 1:3], rtol=1e-4, atol=1e-5)


def test_a_rotation_is_the_same_each_time_and_orthogonal() -> None:
    first, second = (random_rotation(16, torch.device("cpu")) for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first @ first.T, torch.eye(16, dtype=torch.float64))
