from __future__ import annotations

import pytest
import torch
from torch import nn

from eckart.layers import DictionaryLinear, Mask, MaskedLinear, Pattern, SparseLinear, fill_child

OUT, IN, ATOMS = 12, 10, 8


def layer_of(pattern: Pattern | Mask) -> DictionaryLinear:
    torch.manual_seed(0)
    layer = DictionaryLinear(IN, OUT, ATOMS, pattern=pattern)
    fill_child(layer.first, torch.randn(ATOMS, IN).double(), None)
    fill_child(layer.second, torch.randn(OUT, ATOMS).double(), torch.randn(OUT))
    return layer


@pytest.mark.parametrize("pattern", [Pattern.TWO_OF_FOUR, Mask(50)], ids=str)
def test_rows_are_sparse_combinations_of_atoms(pattern: Pattern | Mask) -> None:
    layer, inputs = layer_of(pattern), torch.randn(3, IN)
    assert type(layer.first) is nn.Linear
    assert type(layer.second) is (SparseLinear if pattern is Pattern.TWO_OF_FOUR else MaskedLinear)
    sparse = layer.second.weight
    assert int((sparse != 0).sum()) == (OUT * ATOMS // 2 if pattern is Pattern.TWO_OF_FOUR else 50)
    torch.testing.assert_close(layer.weight, sparse @ layer.first.weight)
    torch.testing.assert_close(layer.dense_weight().float(), layer.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer(inputs), nn.functional.linear(inputs, layer.weight, layer.bias))
    with torch.no_grad():
        torch.testing.assert_close(layer(inputs), nn.functional.linear(inputs, layer.weight, layer.bias))
        assert torch.equal(layer.decode(layer.encode(inputs)), layer(inputs))
    assert layer.encode(inputs).shape == (3, layer.latent_width) == (3, ATOMS)


def test_a_mask_without_its_numbers_is_told() -> None:
    layer = layer_of(Mask(50))
    assert layer.index_problem() is None
    assert isinstance(layer.second, MaskedLinear)
    layer.second.mask[3] = 0
    assert layer.index_problem() == "does not name a place for each of its 50 numbers"
    assert layer.to("meta").index_problem() is None
    assert layer_of(Pattern.TWO_OF_FOUR).index_problem() is None
