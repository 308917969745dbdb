"""First factors that are handed the same tensor, as q, k and v are, run as one product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from eckart.layers.factored import FactoredLinear


def join_first_factors(model: nn.Module) -> None:
    """Let neighbours that share an input run their first factors as one product, where no gradient is asked for.

    Which of them share an input is seen in the first pass. Their weights become views of one tensor; names, numbers and
    what is saved stay. Products are separate as before under autograd, in compiled graphs, and once a weight was moved
    or cast: call this last, behind ``model.to(...)``.

    Args:
        model: loaded or compressed; changed in place.
    """
    for parent in model.modules():
        layers = [child for child in parent.children() if isinstance(child, FactoredLinear)]
        # Factors of few bits have products of their own.
        plain = [(layer, layer.first) for layer in layers if type(layer.first) is nn.Linear]
        if len(plain) > 1:
            neighbours = _Neighbours([first for _, first in plain])
            for place, (layer, first) in enumerate(plain):
                layer.first = _NeighbourLinear.of(first, neighbours, place)


class _NeighbourLinear(nn.Linear):
    """A linear layer that may get its output from a product with others."""

    neighbours: _Neighbours
    place: int

    @classmethod
    def of(cls, linear: nn.Linear, neighbours: _Neighbours, place: int) -> _NeighbourLinear:
        """Return one with the very parameters of ``linear``."""
        own = cls.__new__(cls)
        own.__dict__.update(linear.__dict__, neighbours=neighbours, place=place)
        return own

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in features) to (..., out features)."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(inputs)
        return self.neighbours.product(self, inputs)


class _Neighbours:
    """The linear layers of one module. In their first round they only look at who is handed what."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        self.linears = linears
        self.handed: dict[int, Tensor] | None = {}
        self.joined: dict[int, _JoinedProduct] = {}

    def product(self, linear: _NeighbourLinear, inputs: Tensor) -> Tensor:
        if self.handed is not None:
            if linear.place not in self.handed:
                self.handed[linear.place] = inputs
                return functional.linear(inputs, linear.weight, linear.bias)
            self._join(self.handed)
            self.handed = None
        joined = self.joined.get(linear.place)
        output = None if joined is None else joined.output(linear.place, inputs)
        return functional.linear(inputs, linear.weight, linear.bias) if output is None else output

    def _join(self, handed: dict[int, Tensor]) -> None:
        together: dict[tuple[int, bool], list[int]] = {}
        for place, inputs in handed.items():
            together.setdefault((id(inputs), self.linears[place].bias is None), []).append(place)
        for places in together.values():
            weights = [self.linears[place].weight for place in places]
            if len(places) > 1 and len({(weight.device, weight.dtype) for weight in weights}) == 1:
                joined = _JoinedProduct({place: self.linears[place] for place in places})
                self.joined.update(dict.fromkeys(places, joined))


@dataclass
class _Outputs:
    """What a product gave and is not yet asked for, by the place of the layer."""

    inputs: Tensor
    version: int
    of: dict[int, Tensor]


class _JoinedProduct:
    """One product for layers that are handed the same tensor."""

    def __init__(self, linears: dict[int, nn.Linear]) -> None:
        self.linears = linears
        self.weight = _as_views([linear.weight for linear in linears.values()])
        biases = [linear.bias for linear in linears.values() if linear.bias is not None]
        self.bias = _as_views(biases) if biases else None
        self.outputs: _Outputs | None = None

    def output(self, place: int, inputs: Tensor) -> Tensor | None:
        """Return the output of a layer, or None where its weight is no part of the product any more."""
        found = self.outputs
        if (
            found is None
            or found.inputs is not inputs
            or found.version != _version(inputs)
            or place not in found.of  # the same tensor in another round
        ):
            if not self._is_whole():
                self.outputs = None
                return None
            whole = functional.linear(inputs, self.weight, self.bias)
            parts = torch.split(whole, [linear.out_features for linear in self.linears.values()], dim=-1)
            found = _Outputs(inputs, _version(inputs), dict(zip(self.linears, parts, strict=True)))
        output = found.of.pop(place)
        self.outputs = found if found.of else None
        return output

    def _is_whole(self) -> bool:
        stored = self.weight.untyped_storage().data_ptr()
        return all(linear.weight.untyped_storage().data_ptr() == stored for linear in self.linears.values())


def _as_views(parameters: Sequence[Tensor]) -> Tensor:
    """Return the parameters behind one another, (sum of rows, ...), of which each is a view from now on."""
    whole = torch.cat([parameter.detach() for parameter in parameters])
    for parameter, part in zip(parameters, torch.split(whole, [len(rows) for rows in parameters]), strict=True):
        parameter.data = part
    return whole


def _version(tensor: Tensor) -> int:
    """Return a number that changes where a tensor is written to; PyTorch does not count for those of inference mode."""
    return -1 if tensor.is_inference() else tensor._version
