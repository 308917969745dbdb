"""Pivoted layers that give hidden units in their own order, in a block that is run before and after."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import make_model
from tests.layers.helpers import from_factors
from tests.tiny_models import blockwise
from torch import Tensor, nn

from eckart.blocks.block import Block
from eckart.blocks.discovery import find_blocks
from eckart.blocks.passes import BlockPass
from eckart.compression.drift import compare, outputs_of
from eckart.compression.records import LayerRecord
from eckart.compression.unit_order import order_units
from eckart.layers import LowRankLinear, PivotedLinear, weight_matrix
from eckart.methods.structure import Pivoted

CPU = torch.device("cpu")


def block_of(layer: type[PivotedLinear | LowRankLinear]) -> tuple[Block, list[LayerRecord]]:
    """The first block of a model with all its linears at rank 6, and their records."""
    block = find_blocks(make_model("llama"), units=True)[0]
    records = []
    for ref in block.linears:
        linear = block.module.get_submodule(ref.name)
        u, s, vt = torch.linalg.svd(weight_matrix(linear).detach().double(), full_matrices=False)
        block.module.set_submodule(ref.name, from_factors(layer, linear, u[:, :6] * s[:6], vt[:6]))
        m, n = ref.shape
        records.append(
            LayerRecord(path=ref.path, out_features=m, in_features=n, rank=6, bytes=12 * (m + n - 6) + 2 * m, error=0.1)
        )
    return block, records


def run_of(block: Block, tokens: Tensor) -> tuple[BlockPass, list[Tensor]]:
    model = blockwise(make_model("llama"), tokens)
    hidden = list(model.enter())
    return BlockPass(block.module, model.arguments[0], CPU), hidden


def test_an_index_that_is_not_needed_is_taken_off_and_outputs_are_compared_in_the_new_order(tokens: Tensor) -> None:
    block, records = block_of(PivotedLinear)
    run, hidden = run_of(block, tokens[:2])
    before = outputs_of(block, run, hidden)
    found, original = order_units(block, records, before, Pivoted())
    after = outputs_of(block, run, hidden)
    assert original is not None
    torch.testing.assert_close(list(after.hidden), list(before.hidden), rtol=1e-4, atol=1e-5)
    moved = 0
    for ref in block.linears:
        torch.testing.assert_close(after.layers[ref], original.layers[ref], rtol=1e-4, atol=1e-5)
        moved += not torch.allclose(before.layers[ref], original.layers[ref])
    assert moved == 2  # gate and up
    drift = compare(block, original, after)
    assert drift.output is not None
    assert all(error is not None and error.relative < 1e-4 for error in drift.layers.values())
    saved = {record.path: known.bytes - record.bytes for record, known in zip(found, records, strict=True)}
    assert [record.path for record in found] == [record.path for record in records]
    for ref, record in zip(block.linears, found, strict=True):
        layer = block.module.get_submodule(ref.name)
        assert isinstance(layer, PivotedLinear)
        assert record.in_order == (layer.index is None)
        assert saved[ref.path] == (2 * ref.out_features if layer.index is None else 0)
    # What the second one of a gate and an up projection gives must be put in the order of the first.
    assert next(record for record in found if record.path.endswith("gate_proj")).in_order


@pytest.mark.parametrize("layer", [LowRankLinear])
def test_layers_without_an_index_stay_as_they_are(layer: type[LowRankLinear], tokens: Tensor) -> None:
    block, records = block_of(layer)
    modules: dict[str, nn.Module] = dict(block.module.named_modules())
    found, original = order_units(block, records, None, Pivoted())
    assert found == records
    assert original is None
    assert dict(block.module.named_modules()) == modules
