from __future__ import annotations

import torch

from eckart.layers import MaskedLinear, SparseLinear, fill_child


def test_a_weight_is_held_where_that_is_wanted_and_nobody_trains() -> None:
    torch.manual_seed(0)
    layers: list[MaskedLinear | SparseLinear] = [MaskedLinear(12, 8, 40), SparseLinear(12, 8)]
    for layer in layers:
        fill_child(layer, torch.randn(8, 12).double(), torch.randn(8))
        inputs = torch.randn(3, 12)
        expected = layer(inputs)
        assert layer._unpacked is None
        for holds in (True, False):
            layer.holds_unpacked, layer._unpacked = holds, None
            with torch.no_grad():
                assert torch.equal(layer(inputs), expected)
                torch.testing.assert_close(layer(inputs, slice(2, 5)), expected[:, 2:5])
            assert (layer._unpacked is not None) == holds
        assert len(layer.packed()) == 2
