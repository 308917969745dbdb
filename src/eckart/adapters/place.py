"""Where in a compressed model the weight of a layer is: in the layer itself, or in one that several layers share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

from eckart.layers import (
    EmbeddingTable,
    FactoredLinear,
    FusedLinear,
    MaskedLinear,
    QuantizedLinear,
    SparseLinear,
    weight_matrix,
)
from eckart.layers.fused import JointPart

# Layers that PEFT does not know, whose outputs are those of a linear. Children of few bits are among them.
KINDS: tuple[type[nn.Module], ...] = (
    FactoredLinear,
    QuantizedLinear,
    SparseLinear,
    MaskedLinear,
    FusedLinear,
    JointPart,
)


class Place(NamedTuple):
    """Of the weight of a layer.

    Attributes:
        layer: whose weight it is in.
        leader: of the group that shares it; None if the layer is alone.
        number: of the layer in its group.
        rows: its outputs among those of the group; None for all.
    """

    layer: nn.Module
    leader: FusedLinear | None
    number: int
    rows: slice | None

    @classmethod
    def of(cls, layer: nn.Module) -> Place:
        """Return that of a layer of one of :data:`KINDS`."""
        if isinstance(layer, FusedLinear):
            leader, number = layer, 0
        elif isinstance(layer, JointPart):
            leader, number = layer.leader, layer.number
        else:
            return cls(layer, None, 0, None)
        start = sum(leader.sizes[:number])
        return cls(leader.joint, leader, number, slice(start, start + leader.sizes[number]))

    @property
    def features(self) -> tuple[int, int]:
        """In features and out features of the layer."""
        inputs, outputs = _features(self.layer)
        return inputs, outputs if self.rows is None else self.rows.stop - self.rows.start

    @property
    def numbers(self) -> Tensor:
        """One of its tensors, which has the device and the dtype that it computes in."""
        return next(parameter for parameter in self.layer.parameters() if parameter.is_floating_point())

    def widened(self, up: Tensor) -> Tensor:
        """Return a matrix whose rows are outputs of the layer, (out features, any), with those of its group."""
        if self.rows is None:
            return up
        wide = up.new_zeros(_features(self.layer)[1], up.shape[1])
        wide[self.rows] = up
        return wide


def _features(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, FactoredLinear | QuantizedLinear | SparseLinear | MaskedLinear):
        return layer.in_features, layer.out_features
    outputs, inputs = weight_matrix(layer).shape
    return inputs, outputs


def whole_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the path and the layer of all of :data:`KINDS` in a model, without those inside them."""
    inside = "."
    for path, module in model.named_modules():
        if not path.startswith(inside) and isinstance(module, KINDS) and not isinstance(module, EmbeddingTable):
            inside = f"{path}." if path else ""
            yield path, module
