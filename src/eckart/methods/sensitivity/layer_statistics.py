"""What is known of each linear layer before ranks are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any

from torch import Tensor

from eckart.blocks.block import Block
from eckart.blocks.pairs import Part
from eckart.methods.layout import Layout, dense_bytes


class Needs(Flag):
    """What an allocator wants to know of each linear beyond its shape."""

    NONE = 0
    SPECTRUM = auto()
    FIRST_ORDER = auto()
    CURVATURE = auto()
    SIMILARITY = auto()


@dataclass(frozen=True)
class LayerStatistics:
    """What was measured of one target linear on the original model. All tensors are (min(m, n),) float64 on the host.

    Attributes:
        path: in the model.
        shape: (out features m, in features n).
        group: number of the group of linears that share its input; unique in the model.
        kind: its name inside its block, the same for all blocks.
        energy: the part of ``||W X||^2`` a token, in the objective's metric, that each component carries.
        output_energy: ``||W X||^2`` a token, in the same metric, where the components are not those of W but of what
            another matrix lacks; None where the energies add up to it.
        tokens: over which energies are means.
        first_order: predicted change of the loss, in nats a token, if a component is removed; may be negative.
        curvature: predicted rise of the loss by its curvature alone, in nats a token, if a component is removed.
        similarity: mean cosine of the hidden states in front of its block and behind it.
        own: what an allocation's own measurement found of it; see :meth:`eckart.methods.allocation.Allocation.measure`.
        has_bias: whether it has one.
        part: what it has of a pair whose width shrinks; None for a linear that is factored on its own.
        block: path of the block that it is in.
    """

    path: str
    shape: tuple[int, int]
    group: int
    kind: str
    energy: Tensor | None = None
    output_energy: float | None = None
    tokens: float = 0
    first_order: Tensor | None = None
    curvature: Tensor | None = None
    similarity: float | None = None
    own: Any = None
    has_bias: bool = False
    part: Part | None = None
    block: str = ""

    @property
    def dense_bytes(self) -> int:
        """Bytes of its weight in 16-bit numbers."""
        return dense_bytes(*self.shape)

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields that are tensors, by name."""
        found = {"energy": self.energy, "first_order": self.first_order, "curvature": self.curvature}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def numbers(self) -> dict[str, Any]:
        """Return the other fields that are measured, by name."""
        names = ("output_energy", "tokens", "similarity", "has_bias")
        return {name: getattr(self, name) for name in names}

    def layout(self, layout: Layout) -> Layout:
        """Return the layout by which its bytes are counted."""
        return layout.beside_bias(self.has_bias)


def shapes_of(blocks: Sequence[Block]) -> tuple[LayerStatistics, ...]:
    """Return all that is known of the linears without a measurement, in order of execution."""
    groups = [(block, group) for block in blocks for group in block.groups]
    return tuple(
        LayerStatistics(
            ref.path,
            ref.shape,
            number,
            ref.name,
            has_bias=ref.has_bias,
            part=block.part(ref.name),
            block=block.path,
        )
        for number, (block, group) in enumerate(groups)
        for ref in group.linears
    )
