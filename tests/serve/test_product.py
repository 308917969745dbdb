"""Parts of different layouts and ranks side by side, against each of them alone."""

from __future__ import annotations

import pytest
import torch
from tests.serve.helpers import ALL, inputs_of, random_layer
from torch import nn

from eckart.serve.part import part_of
from eckart.serve.product import Product

MIXTURES = [
    ("two-factor", "two-factor", "two-factor"),
    ("two-factor", "dense", "two-factor"),
    ("pivoted", "dense", "8-bit"),
    ("hybrid", "hybrid", "dense"),
    ("remapped", "two-factor-4", "4-bit"),
    ("hybrid-8", "hybrid-3", "2-bit"),  # as an allocation leaves q, k and v that chose a base for each
]


@pytest.mark.parametrize("layouts", [*MIXTURES, *[(name,) * 2 for name in ALL]])
def test_parts_side_by_side(layouts: tuple[str, ...]) -> None:
    layers = [random_layer(layout, 24 + 8 * place, rank=8 + 3 * place) for place, layout in enumerate(layouts)]
    product = Product([part_of(layer) for layer in layers])
    expected = torch.cat([layer(inputs_of()) for layer in layers], dim=-1)
    assert torch.allclose(product(inputs_of()), expected, rtol=1e-9, atol=1e-9)


def test_first_factors_and_whole_weights_run_as_one_product() -> None:
    layouts = ("two-factor", "dense", "pivoted")
    product = Product([part_of(random_layer(layout, rank=7 + place)) for place, layout in enumerate(layouts)])
    (reader,) = product.readers
    assert isinstance(reader, nn.Linear)
    assert reader.weight.shape == (7 + 24 + 9, 32)


def test_codes_of_one_scheme_run_as_one_product_too() -> None:
    product = Product([part_of(random_layer("hybrid", rank=7 + place)) for place in range(3)])
    assert [reader.out_features for reader in product.readers] == [3 * 24, 7 + 8 + 9]


def test_outputs_in_another_order() -> None:
    layer = random_layer("two-factor")
    order = torch.randperm(24)
    assert torch.equal(Product([part_of(layer)], order)(inputs_of()), Product([part_of(layer)])(inputs_of())[:, order])


def test_linears_are_replaced() -> None:
    product = Product([part_of(random_layer("hybrid")), part_of(random_layer("dense"))])
    before = product(inputs_of())
    seen = []

    class Other(nn.Module):
        def __init__(self, linear: nn.Linear) -> None:
            super().__init__()
            seen.append(linear)
            self.matrix = nn.Parameter(linear.weight)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs @ self.matrix.T

    product.replace_matrices(nn.Linear, Other)
    assert len(seen) == 2
    assert torch.allclose(product(inputs_of()), before)


@pytest.mark.parametrize("layout", ["two-factor", "pivoted", "hybrid", "remapped", "two-factor-4"])
def test_it_is_one_graph(layout: str) -> None:
    """Engines compile a model as one graph, with any number of tokens."""
    product = Product([part_of(random_layer(layout, rank=7 + place)) for place in range(2)])
    torch.compiler.reset()  # there is a limit to the graphs of one function
    compiled = torch.compile(product, backend="eager", fullgraph=True, dynamic=True)
    with torch.inference_mode():
        for tokens in (1, 3):
            inputs = inputs_of()[:tokens]
            assert torch.equal(compiled(inputs), product(inputs))
