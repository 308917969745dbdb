"""A product is added to a layer's weight without loss, and taken away again without a trace."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from tests.layers.helpers import from_factors
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from eckart.adapters.growth import add_product, settle, take_product, why_not
from eckart.errors import AdapterError
from eckart.layers import (
    DictionaryLinear,
    HybridLinear,
    KeptColumnsLinear,
    LowRankLinear,
    Mask,
    PivotedLinear,
    QuantizedLinear,
    RemappedLinear,
    weight_matrix,
)
from eckart.layers.child import fill_child
from eckart.maths.quantization import QuantScheme

OUT, IN, RANK = 14, 10, 3


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def linear() -> nn.Linear:
    return nn.Linear(IN, OUT)


def two_factors() -> LowRankLinear:
    layer: LowRankLinear = from_factors(LowRankLinear, linear(), torch.randn(OUT, RANK), torch.randn(RANK, IN))
    return layer


def pivoted() -> PivotedLinear:
    layer: PivotedLinear = from_factors(PivotedLinear, linear(), torch.randn(OUT, RANK), torch.randn(RANK, IN))
    return layer


def in_order() -> PivotedLinear:
    layer = pivoted()
    layer.index = None
    return layer


def hybrid() -> HybridLinear:
    layer = HybridLinear(IN, OUT, RANK, base=QuantScheme(4, 5))
    for child in (layer.base, layer.first, layer.second):
        fill_child(child, torch.randn(child.out_features, child.in_features), None)
    return layer


def conv1d() -> Conv1D:
    layer = Conv1D(OUT, IN)
    nn.init.normal_(layer.bias)
    return layer


LAYERS: list[Callable[[], nn.Module]] = [linear, conv1d, two_factors, pivoted, in_order, hybrid]
layers = pytest.mark.parametrize("make", LAYERS, ids=lambda make: make.__name__)


def weight_of(layer: nn.Module) -> Tensor:
    """Return the weight as a layer's outputs show it."""
    outputs: Tensor = layer(torch.cat([torch.eye(IN), torch.zeros(1, IN)]))
    return (outputs[:-1] - outputs[-1]).T.detach()


def product(rank: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(rank, IN), torch.randn(OUT, rank)


def tensors(layer: nn.Module) -> dict[str, Tensor]:
    return dict(layer.named_parameters()) | dict(layer.named_buffers())


@layers
@pytest.mark.parametrize("rank", [2, 6, 9], ids=lambda rank: f"rank {rank}")
def test_a_product_is_added_without_loss(make: Callable[[], nn.Module], rank: int) -> None:
    layer, (down, up) = make(), product(rank)
    expected, constant = weight_of(layer) + up @ down, layer(torch.zeros(IN))
    add_product(layer, "one", down, up)
    torch.testing.assert_close(weight_of(layer), expected)
    torch.testing.assert_close(layer(torch.zeros(IN)), constant)
    if isinstance(layer, LowRankLinear | PivotedLinear):
        assert layer.rank == min(RANK + rank, IN)
        assert layer.first.weight.shape == (layer.first.out_features, layer.first.in_features)
        assert layer.second.weight.shape == (layer.second.out_features, layer.second.in_features)
        torch.testing.assert_close(layer.weight, expected)
    else:
        torch.testing.assert_close(weight_matrix(layer), expected)


@layers
def test_products_are_taken_away_in_any_order(make: Callable[[], nn.Module]) -> None:
    layer = make()
    before, description, weight = tensors(layer), str(layer), weight_of(layer)
    copies = {name: tensor.clone() for name, tensor in before.items()}
    products = {key: product() for key in "abc"}
    for key, (down, up) in products.items():
        add_product(layer, key, down, up)
    take_product(layer, "a")
    left = products["b"][1] @ products["b"][0] + products["c"][1] @ products["c"][0]
    torch.testing.assert_close(weight_of(layer), weight + left)
    take_product(layer, "c")
    take_product(layer, "b")
    after = tensors(layer)
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)  # the very tensors, with the very numbers
    assert all(torch.equal(after[name], copies[name]) for name in before)
    assert str(layer) == description
    assert not [name for name in vars(layer) if "growth" in name]


@layers
def test_a_layer_that_is_settled_starts_anew(make: Callable[[], nn.Module]) -> None:
    layer, (down, up) = make(), product()
    add_product(layer, "a", down, up)
    settle(layer)
    grown = weight_of(layer)
    add_product(layer, "a", *product())
    take_product(layer, "a")
    assert torch.equal(weight_of(layer), grown)


def test_a_copy_and_a_layer_that_is_moved_know_what_was_added() -> None:
    layer = pivoted()
    weight = weight_of(layer)
    add_product(layer, "a", *product())
    twin = copy.deepcopy(layer)
    take_product(twin, "a")
    assert torch.equal(weight_of(twin), weight)
    assert layer.rank == RANK + 2
    half = copy.deepcopy(layer).to(torch.float32)
    take_product(half, "a")
    assert half.first.weight.dtype == torch.float32
    assert half.index is not None
    assert half.index.dtype == torch.int16


def test_a_product_of_zeros_as_before_training() -> None:
    layer = pivoted()
    weight = weight_of(layer)
    add_product(layer, "a", torch.randn(4, IN), torch.zeros(OUT, 4))
    torch.testing.assert_close(weight_of(layer), weight)


def test_frozen_numbers_stay_frozen() -> None:
    layer = two_factors().requires_grad_(False)
    add_product(layer, "a", *product())
    assert not any(parameter.requires_grad for parameter in layer.parameters())


def test_numbers_of_few_bits_are_not_rounded_again() -> None:
    few: list[nn.Module] = [
        QuantizedLinear(IN, OUT, QuantScheme(8)),
        LowRankLinear(IN, OUT, RANK, scheme=QuantScheme(8)),
        PivotedLinear(IN, OUT, RANK, scheme=QuantScheme(4)),
        RemappedLinear(IN, OUT, RANK),
    ]
    for layer in few:
        assert "held in few bits" in (why_not(layer, 1) or "")
        with pytest.raises(AdapterError, match=r"few bits.*Keep the adapter apart.*dequantize"):
            add_product(layer, "a", *product())
        assert not [name for name in vars(layer) if "growth" in name]


def test_what_no_layer_can_hold() -> None:
    assert why_not(DictionaryLinear(IN, OUT, RANK, pattern=Mask(OUT)), 1) == (
        "its second factor is sparse, and an adapter is not"
    )
    assert why_not(KeptColumnsLinear(IN, OUT, RANK, columns=2), 1) == (
        "a KeptColumnsLinear has no place for an adapter of more numbers"
    )
    wide = PivotedLinear(IN + 9, OUT, RANK)
    assert why_not(wide, OUT - 1 - RANK) is None
    assert why_not(wide, OUT - RANK) == "its rank would be 14, and pivots of 14 outputs hold up to 13"
    assert why_not(pivoted(), 100) is None  # no matrix of 10 columns has a higher rank
    assert why_not(nn.Linear(IN, OUT, device="meta"), 1) == "its numbers are offloaded to disk"
    assert why_not(nn.Bilinear(2, 2, 2), 1) == "a Bilinear has no place for an adapter of more numbers"
