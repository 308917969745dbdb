"""What one layer of a checkpoint computes, in the one form that all layouts have when they are served.

    hidden  = the sum of inner matrices, each of some inputs
    outputs = base x + [hidden,] outer_1 hidden, outer_2 hidden, ...    in some order

A form is cut for one of several devices by its outputs or by its inputs. It has no bias: the engine adds that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from eckart.errors import ServingError
from eckart.layers import (
    FactoredLinear,
    HybridLinear,
    LowRankLinear,
    PivotedLinear,
    QuantizedLinear,
    RemappedLinear,
    SparseLinear,
)
from eckart.layers.child import Child
from eckart.serve.matrices import moved, take_columns, take_rows, without_bias


@dataclass(frozen=True)
class Part:
    """See above.

    Attributes:
        inner: each with the number of the first input that it is handed; their outputs are added up.
        outer: each from the outputs of ``inner`` on; none where those are the outputs of the part.
        base: from all inputs to all outputs, or None.
        passes_on: whether the outputs of ``inner`` are outputs of the part too, in front of those of ``outer``.
        order: (outputs,) int64, the place of each output among those; None for their own order. Not beside a base.
    """

    inner: tuple[tuple[int, Child], ...]
    outer: tuple[Child, ...] = ()
    base: Child | None = None
    passes_on: bool = False
    order: Tensor | None = None

    @property
    def reads(self) -> tuple[tuple[int, Child], ...]:
        """The matrices that are handed inputs: the base, if there is one, and the inner ones."""
        return self.inner if self.base is None else ((0, self.base), *self.inner)

    def to(self, device: torch.device) -> Part:
        """Return a copy on a device."""
        return replace(
            self,
            inner=tuple((start, moved(matrix, device)) for start, matrix in self.inner),
            outer=tuple(moved(matrix, device) for matrix in self.outer),
            base=None if self.base is None else moved(self.base, device),
            order=None if self.order is None else self.order.to(device),
        )

    def outputs(self) -> int:
        """Return how many outputs there are."""
        if self.order is not None:
            return len(self.order)
        width = self.inner[0][1].out_features if self.passes_on else 0
        return width + sum(matrix.out_features for matrix in self.outer)


def part_of(layer: nn.Module) -> Part:
    """Return what a layer computes, its bias left out.

    Raises:
        ServingError: the layer's class is not known here.
    """
    if isinstance(layer, nn.Linear | QuantizedLinear | SparseLinear):
        return Part(((0, without_bias(layer)),), passes_on=True)
    check_form(type(layer))
    assert isinstance(layer, FactoredLinear)
    part = FORMS[type(layer)](layer)
    return replace(
        part,
        inner=tuple((start, without_bias(matrix)) for start, matrix in part.inner),
        outer=tuple(map(without_bias, part.outer)),
    )


def check_form(layer: type[nn.Module]) -> None:
    """Raise unless layers of a class that are factored can be served.

    Raises:
        ServingError: says which classes can.
    """
    if layer not in FORMS:
        known = ", ".join(kind.__name__ for kind in FORMS)
        raise ServingError(
            f"A layer of class {layer.__name__} cannot be served; expected one of {known}, or a whole weight. "
            "Use another structure, or serve the dense model that `eckart merge` writes."
        )


def _two_factor(layer: LowRankLinear) -> Part:
    return Part(((0, layer.first),), (layer.second,))


def _hybrid(layer: HybridLinear) -> Part:
    return Part(((0, layer.first),), (layer.second,), layer.base)


def _pivoted(layer: PivotedLinear) -> Part:
    order = None if layer.index is None else layer.index.long()
    return Part(((0, layer.first),), (layer.second,), passes_on=True, order=order)


def _remapped(layer: RemappedLinear) -> Part:
    if layer.rest is None:
        return _two_factor(layer)
    if layer.out_features > layer.common:
        return Part(((0, layer.first),), (layer.second, layer.rest))
    return Part(((0, layer.first), (layer.common, layer.rest)), (layer.second,))


FORMS: dict[type[FactoredLinear], Callable[..., Part]] = {
    LowRankLinear: _two_factor,
    PivotedLinear: _pivoted,
    HybridLinear: _hybrid,
    RemappedLinear: _remapped,
}


def take_outputs(part: Part, rows: Tensor) -> Part:
    """Return the part for some of its outputs. The inner matrices stay whole where there are outer ones.

    Args:
        part: of all outputs.
        rows: numbers of outputs, (some,) int64, in the order wanted.
    """
    places = rows if part.order is None else part.order[rows]
    base = None if part.base is None else take_rows(part.base, rows)
    if not part.outer:
        (start, inner), *_ = part.inner
        return replace(part, inner=((start, take_rows(inner, places)),), order=None)
    offset = start = part.inner[0][1].out_features if part.passes_on else 0
    moved, outer = places.clone(), []
    for matrix in part.outer:
        chosen = (places >= start) & (places < start + matrix.out_features)
        count = int(chosen.sum())
        if count:
            outer.append(take_rows(matrix, places[chosen] - start))
            moved[chosen] = torch.arange(offset, offset + count)
        start, offset = start + matrix.out_features, offset + count
    order = None if torch.equal(moved, torch.arange(offset)) else moved
    return Part(part.inner, tuple(outer), base, part.passes_on, order)


def take_inputs(part: Part, columns: slice) -> Part:
    """Return the part for some of its inputs: what it computes of them, to be added up over all.

    The outer matrices stay whole.

    Args:
        part: of all inputs.
        columns: from its start up to its stop, both given.
    """
    inner = []
    for first, matrix in part.inner:
        start, stop = max(columns.start, first), min(columns.stop, first + matrix.in_features)
        if start < stop:
            inner.append((start - columns.start, take_columns(matrix, slice(start - first, stop - first))))
    base = None if part.base is None else take_columns(part.base, columns)
    return replace(part, inner=tuple(inner), base=base)
