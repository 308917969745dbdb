"""Lets pivoted layers give hidden units in their own order."""

from __future__ import annotations

from collections.abc import Sequence

from eckart.blocks.block import Block
from eckart.blocks.hidden_units import put_in_order
from eckart.compression.drift import Outputs
from eckart.compression.records import LayerRecord
from eckart.methods.structure import Structure


def order_units(
    block: Block, layers: Sequence[LayerRecord], original: Outputs | None, structure: Structure
) -> tuple[list[LayerRecord], Outputs | None]:
    """Let pivoted layers give a block's hidden units in their own order, and take their index off the records.

    What the original layers gave is put in that order too, as it will be compared.
    """
    found = put_in_order(block.module, block.units)
    if original is not None:
        original = original.reordered({t: found.orders[t.name] for t in block.linears if t.name in found.orders})
    paths = {block.inside(name) for name in found.without_index}

    def without_index(record: LayerRecord) -> LayerRecord:
        saved = structure.index_bytes(record.out_features)
        return record.model_copy(update={"in_order": True, "bytes": record.bytes - saved})

    return [without_index(record) if record.path in paths else record for record in layers], original
