"""Layers whose weight has a product of two thin matrices added, and given back.

The weight of a layer of low rank is a product itself: another product beside it is more rows of ``first`` and more
columns of ``second``. So an adapter is added without loss, and the rank grows by the adapter's. A layer keeps the
tensors that it had until it is settled: when the last product is taken away, those very tensors are back.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

from eckart.errors import AdapterError
from eckart.layers import (
    FactoredLinear,
    HybridLinear,
    LowRankLinear,
    MaskedLinear,
    PivotedLinear,
    QuantizedLinear,
    SparseLinear,
    weight_matrix,
)
from eckart.layers.linear import LINEAR_CLASSES

SIZES = ("in_features", "out_features", "rank")  # attributes that change with a layer's rank
RECORD = "_growth"  # where a layer keeps what was added to it
APART = (
    "Keep the adapter apart (save_pretrained of the PEFT model writes it alone), or make the model dense first "
    "(model.dequantize()) and load the adapter onto that."
)


def why_not(layer: nn.Module, rank: int) -> str | None:
    """Return why a product of ``rank`` cannot be added to the weight of a layer, or None if it can.

    Args:
        layer: that stands for a linear.
        rank: of all that would be added now.
    """
    if any(tensor.is_meta for tensor in (*layer.parameters(), *layer.buffers())):
        return "its numbers are offloaded to disk"
    if isinstance(layer, FactoredLinear) and isinstance(layer.second, MaskedLinear | SparseLinear):
        return "its second factor is sparse, and an adapter is not"
    if isinstance(layer, FactoredLinear) and not _children_are_plain(layer):
        return "its factors are held in few bits, in which an adapter would be rounded"
    if type(layer) in GROW:
        if isinstance(layer, PivotedLinear):
            grown, highest = layer.rank + rank, layer.out_features - 1
            if min(grown, layer.in_features) > highest:
                return f"its rank would be {grown}, and pivots of {layer.out_features} outputs hold up to {highest}"
        return None
    if isinstance(layer, QuantizedLinear):
        return "its weight is held in few bits, in which an adapter would be rounded"
    return f"a {type(layer).__name__} has no place for an adapter of more numbers"


def add_product(layer: nn.Module, key: Hashable, down: Tensor, up: Tensor) -> None:
    """Add ``up @ down`` to the weight of a layer.

    Args:
        layer: that stands for a linear; is changed in place.
        key: by which it is taken away again.
        down: (added rank, in features).
        up: (out features, added rank).

    Raises:
        AdapterError: it cannot be; see :func:`why_not`.
    """
    reason = why_not(layer, len(down))
    if reason is not None:
        raise AdapterError(f"An adapter cannot be merged into this layer: {reason}. {APART}")
    _record(layer).add(key, down, up)


def take_product(layer: nn.Module, key: Hashable) -> None:
    """Take away from a layer what was added to it by ``key``."""
    _record(layer).take(key)


def settle(layer: nn.Module) -> None:
    """Forget which tensors a layer had before: what was added stays."""
    vars(layer).pop(RECORD, None)


def _record(layer: nn.Module) -> _Growth:
    found = vars(layer).get(RECORD)
    if not isinstance(found, _Growth):
        found = vars(layer)[RECORD] = _Growth(layer)
    return found


class _Growth:
    """What was added to a layer, by key, and all that it had before."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.before = [
            (module, dict(module._parameters), dict(module._buffers), _sizes(module)) for module in layer.modules()
        ]
        self.added: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def add(self, key: Hashable, down: Tensor, up: Tensor) -> None:
        self.added[key] = down.detach(), up.detach()
        self._rebuild()

    def take(self, key: Hashable) -> None:
        del self.added[key]
        self._rebuild()
        if not self.added:
            settle(self.layer)

    @torch.no_grad()
    def _rebuild(self) -> None:
        """Start from what the layer had, so that products can be taken away in any order."""
        for module, parameters, buffers, sizes in self.before:
            for now, before in ((module._parameters, parameters), (module._buffers, buffers)):
                for name, tensor in before.items():
                    now[name] = _moved(tensor, like=now[name])
            vars(module).update(sizes)
        if self.added:
            downs, ups = zip(*self.added.values(), strict=True)
            GROW[type(self.layer)](self.layer, torch.cat(downs).double(), torch.cat(ups, dim=1).double())


def _sizes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name in SIZES}


def _moved(tensor: Any, like: Tensor | None) -> Any:
    """Return a tensor, moved to where the model has been moved since."""
    if tensor is not None and like is not None:
        tensor.data = tensor.data.to(like.device, like.dtype)
    return tensor


def _children_are_plain(layer: FactoredLinear) -> bool:
    return all(isinstance(child, nn.Linear) for child in (layer.first, layer.second))


def _grow_dense(layer: nn.Module, down: Tensor, up: Tensor) -> None:
    old = layer.get_parameter("weight")
    layer.register_parameter("weight", nn.Parameter(old.detach().clone(), old.requires_grad))
    weight_matrix(layer).add_((up @ down).to(old.dtype))


def _grow_two_factors(layer: LowRankLinear, down: Tensor, up: Tensor) -> None:
    first, second = torch.cat([_numbers(layer.first), down]), torch.cat([_numbers(layer.second), up], dim=1)
    first, second = _no_more_than_whole(first, second)
    _set(layer.first, "weight", first)
    _set(layer.second, "weight", second)
    layer.rank = layer.first.out_features = layer.second.in_features = len(first)


def _grow_pivoted(layer: PivotedLinear, down: Tensor, up: Tensor) -> None:
    # Imported when adapters are merged: who trains or runs them needs no solver.
    from eckart.maths.pivoting import choose_pivots, other_rows

    rows, bias, first = layer.out_features, layer.dense_bias(), _numbers(layer.first)
    stacked = torch.cat([torch.eye(layer.rank, dtype=first.dtype, device=first.device), _numbers(layer.second)])
    first, second = torch.cat([first, down]), torch.cat([stacked[layer.places().long()], up], dim=1)
    if len(first) > layer.in_features:
        first, second = torch.eye(layer.in_features, dtype=first.dtype, device=first.device), second @ first
    pivots, coefficients = choose_pivots(second)
    _set(layer.first, "weight", second[pivots] @ first)
    _set(layer.second, "weight", coefficients)
    layer.rank = layer.first.out_features = layer.second.in_features = len(first)
    layer.second.out_features = rows - layer.rank
    layer.index = layer.places().clone()
    layer.set_rows(pivots, other_rows(pivots, rows))
    if bias is not None:
        _set(layer.first, "bias", bias.new_zeros(layer.rank))
        _set(layer.second, "bias", bias.new_zeros(rows - layer.rank))
        layer.set_bias(bias.double(), bias.dtype)


def _no_more_than_whole(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return factors of the same product whose rank is at most that of any matrix of its shape."""
    (rank, columns), rows = first.shape, len(second)
    if rank <= min(rows, columns):
        return first, second
    eye = torch.eye(min(rows, columns), dtype=first.dtype, device=first.device)
    return (eye, second @ first) if columns <= rows else (second @ first, eye)


def _numbers(child: nn.Module) -> Tensor:
    return child.get_parameter("weight").detach().double()


def _set(child: nn.Module, name: str, numbers: Tensor) -> None:
    """Give a child a new parameter in the place of one that keeps its numbers."""
    old = child.get_parameter(name)
    child.register_parameter(name, nn.Parameter(numbers.to(old.dtype).contiguous(), old.requires_grad))


# Of the very class: a subclass may hold its numbers in other places.
GROW: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], None]] = {
    **dict.fromkeys(LINEAR_CLASSES, _grow_dense),
    LowRankLinear: _grow_two_factors,
    HybridLinear: _grow_two_factors,
    PivotedLinear: _grow_pivoted,
}
