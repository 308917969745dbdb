"""Gives the layer that one of several processes has made to all."""

from __future__ import annotations

from torch import Tensor

from eckart import processes
from eckart.blocks.block import LinearRef
from eckart.blocks.onload import OnloadedModule
from eckart.compression.plan import Plan
from eckart.compression.records import LayerRecord


def give_layer(
    onloaded: OnloadedModule,
    plan: Plan,
    ref: LinearRef,
    owner: int,
    record: LayerRecord | None,
    spectra: dict[str, Tensor],
) -> LayerRecord:
    """Put the layer in place that one process has made of a linear, and return its record.

    Args:
        onloaded: the block; in the owner the layer is there.
        plan: with the rank of the linear.
        ref: the linear.
        owner: number of the process.
        record: of the layer; counts in the owner only.
        spectra: is given that of the layer, by path, if it has one.
    """
    if processes.size() == 1:
        assert record is not None
        return record
    mine, changes = processes.rank() == owner, plan.changes(ref.path)
    held: dict[str, Tensor] | None = None
    if mine:
        layer = onloaded.module.get_submodule(ref.name)
        held = {f"layer.{n}": t for n, t in layer.state_dict().items()} if changes else {}
        if ref.path in spectra:
            held["spectrum"] = spectra[ref.path]
    found = processes.give(None if record is None else record.model_dump(mode="json"), owner)
    tensors = processes.give_tensors(held, owner)
    given = LayerRecord.model_validate(found)
    if not mine:
        if changes:
            layout = plan.layout(ref.path).with_columns(given.columns)
            layer = layout.empty_like(onloaded.module.get_submodule(ref.name), given.rank)
            layer.load_state_dict({n.removeprefix("layer."): t for n, t in tensors.items() if n != "spectrum"})
            onloaded.replace(ref.name, layer)
        if "spectrum" in tensors:
            spectra[ref.path] = tensors["spectrum"]
    return given
