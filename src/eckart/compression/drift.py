"""Follows a few tokens through the original and the compressed model, to record how the two drift apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eckart.blocks.discovery import Block, LinearRef, hooks
from eckart.blocks.hidden_units import put_in_order
from eckart.blocks.onload import OnloadedModule
from eckart.blocks.passes import ArgumentsByShape
from eckart.compression.records import BlockRecord, drift_error
from eckart.compression.result import LayerRecord
from eckart.device import compute_dtype
from eckart.layers import weight_matrix
from eckart.methods.structure import Structure


@dataclass(frozen=True)
class Outputs:
    """What a pass through a block gave.

    Attributes:
        hidden: behind the block, (batch, length, width).
        layers: outputs of each target linear that was run.
    """

    hidden: Tensor
    layers: dict[LinearRef, Tensor]

    def reordered(self, orders: Mapping[LinearRef, Tensor]) -> Outputs:
        """Return the same with the outputs of some linears in another order, (out features,) each."""
        moved = {ref: self.layers[ref][:, order] for ref, order in orders.items() if ref in self.layers}
        return Outputs(self.hidden, {**self.layers, **moved})


def outputs_of(block: Block, arguments: ArgumentsByShape, hidden: Tensor, device: torch.device) -> Outputs:
    """Run a block as it is now on hidden states (batch, length, width) in the stored dtype."""
    seen: dict[LinearRef, list[Tensor]] = {}

    def record(ref: LinearRef) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            seen.setdefault(ref, []).append(output.detach().flatten(0, -2))

        return hook

    with hooks() as handles, torch.no_grad():
        for ref in block.linears:
            handles.append(block.module.get_submodule(ref.name).register_forward_hook(record(ref)))
        given = hidden.to(device, compute_dtype(hidden.dtype, device), copy=True)
        behind = arguments[hidden.shape[:2]](block.module, given)
    return Outputs(behind, {ref: torch.cat(parts) for ref, parts in seen.items()})


@contextmanager
def original_weights(onloaded: OnloadedModule) -> Iterator[None]:
    """Let the linears of a block that is lent with other weights have their own."""
    lent = {name: weight_matrix(onloaded.module.get_submodule(name)).detach() for name in onloaded.originals}
    before = {name: weight.clone() for name, weight in lent.items()}
    for name, weight in lent.items():
        weight.copy_(onloaded.originals[name])
    try:
        yield
    finally:
        for name, weight in lent.items():
            weight.copy_(before[name])


def order_units(
    block: Block, layers: Sequence[LayerRecord], original: Outputs | None, structure: Structure
) -> tuple[list[LayerRecord], Outputs | None]:
    """Let pivoted layers give a block's hidden units in their own order, and take their index off the records.

    What the original layers gave is put in that order too, as it will be compared.
    """
    found = put_in_order(block.module, block.units)
    if original is not None:
        original = original.reordered({t: found.orders[t.name] for t in block.linears if t.name in found.orders})
    paths = {f"{block.path}.{name}" for name in found.without_index}

    def without_index(record: LayerRecord) -> LayerRecord:
        saved = structure.index_bytes(record.out_features)
        return record.model_copy(update={"in_order": True, "bytes": record.bytes - saved})

    return [without_index(record) if record.path in paths else record for record in layers], original


def compare(block: Block, original: Outputs, compressed: Outputs) -> BlockRecord:
    """Return how far the outputs of a block in the compressed model are from those in the original one."""
    return BlockRecord(
        path=block.path,
        output=drift_error(original.hidden, compressed.hidden),
        layers={
            ref.path: drift_error(output, compressed.layers[ref]) if ref in compressed.layers else None
            for ref, output in original.layers.items()
        },
    )
