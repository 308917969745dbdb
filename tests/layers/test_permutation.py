from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.layers.helpers import from_factors
from torch import nn
from transformers.pytorch_utils import Conv1D

from eckart.layers import FactoredLinear, HybridLinear, LowRankLinear, PivotedLinear, QuantizedLinear, fill_child
from eckart.layers.permutation import inputs_permutable, outputs_permutable, permute_inputs, permute_outputs
from eckart.maths.quantization import QuantScheme

OUT, IN, RANK = 12, 10, 4
GRIDS = {
    "16-bit": None,
    "8-bit": QuantScheme(8),
    "8-bit-groups": QuantScheme(8, 5),
    "4-bit": QuantScheme(4, 5),
    "3-bit": QuantScheme(3, 5),
}


def make(kind: str, scheme: QuantScheme | None) -> Any:
    """A layer with random numbers."""
    torch.manual_seed(0)
    dense: Any = Conv1D(OUT, IN) if kind == "conv1d" else nn.Linear(IN, OUT, bias=kind != "no-bias")
    nn.init.normal_(dense.weight)
    if kind != "no-bias":
        nn.init.normal_(dense.bias)
    factors = torch.randn(OUT, RANK, dtype=torch.float64), torch.randn(RANK, IN, dtype=torch.float64)
    if kind == "whole":
        layer = QuantizedLinear.empty_like(dense, scheme or QuantScheme(8))
        fill_child(layer, dense.weight.detach().double(), dense.bias)
        return layer
    classes: dict[str, type[FactoredLinear]] = {"two-factor": LowRankLinear, "pivoted": PivotedLinear}
    return from_factors(classes[kind], dense, *factors, scheme=scheme) if kind in classes else dense


@pytest.mark.parametrize("scheme", GRIDS)
@pytest.mark.parametrize("kind", ["bias", "no-bias", "conv1d", "whole", "two-factor", "pivoted"])
@torch.no_grad()
def test_only_the_order_is_another(kind: str, scheme: str) -> None:
    layer, x = make(kind, GRIDS[scheme]), torch.randn(3, IN)
    expected, inputs, outputs = layer(x), torch.randperm(IN), torch.randperm(OUT)
    assert outputs_permutable(layer)
    permute_outputs(layer, outputs)
    torch.testing.assert_close(layer(x), expected[:, outputs])
    permute_outputs(layer, outputs.argsort())
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)
    # Columns that share a scale with their neighbours cannot leave them.
    has_grid = kind in ("whole", "two-factor", "pivoted")
    assert inputs_permutable(layer) == (not has_grid or GRIDS[scheme] in (None, QuantScheme(8)))
    if inputs_permutable(layer):
        permute_inputs(layer, inputs)
        torch.testing.assert_close(layer(x[:, inputs]), expected)


@torch.no_grad()
def test_a_pivoted_layer_in_its_own_order_runs_and_multiplies_out_without_an_index() -> None:
    layer, x = make("pivoted", None), torch.randn(3, IN)
    expected, order = layer(x), layer.places().long().argsort()
    assert not layer.drop_index_in_order()
    permute_outputs(layer, order)
    assert layer.drop_index_in_order()
    assert "index" not in layer.state_dict()
    assert layer.has_valid_index()
    dense = layer.to_dense()
    for result in (layer(x), dense(x), x @ layer.weight.T + layer.dense_bias()):
        torch.testing.assert_close(result, expected[:, order], rtol=1e-4, atol=1e-4)
    permute_outputs(layer, order.argsort())  # which needs one again
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)


def test_what_is_not_known_is_not_permutable() -> None:
    for layer in (HybridLinear(IN, OUT, RANK, base=QuantScheme(4, 5)), nn.LayerNorm(IN), nn.Identity()):
        assert not outputs_permutable(layer)
        assert not inputs_permutable(layer)
