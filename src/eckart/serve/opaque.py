"""Layers that a compiler does not look into.

PyTorch's products of few bits are chosen by how many tokens there are. A compiler that traces a layer once, for any
number of them, would write down the way that makes a 16-bit weight of the codes, for all.
"""

from __future__ import annotations

from itertools import count
from typing import cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from eckart.layers import QuantizedLinear

_LAYERS: WeakValueDictionary[int, OpaqueLinear] = WeakValueDictionary()
_NUMBERS = count()  # in the order in which layers are made: the same ones in each process that loads a model
_LIBRARY = torch.library.Library("eckart", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("run_layer(Tensor inputs, int number, int outputs) -> Tensor")  # type: ignore[no-untyped-call]


class OpaqueLinear(nn.Module):
    """A layer of few bits that a compiled model calls as it is.

    Attributes:
        layer: that is run.
    """

    def __init__(self, layer: QuantizedLinear) -> None:
        super().__init__()
        self.layer = layer
        self.out_features = layer.out_features
        self.number = next(_NUMBERS)
        _LAYERS[self.number] = self

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in features) to (..., out features)."""
        if torch.compiler.is_compiling():
            return cast(Tensor, torch.ops.eckart.run_layer(inputs, self.number, self.out_features))
        return cast(Tensor, self.layer(inputs))


def _run(inputs: Tensor, number: int, outputs: int) -> Tensor:
    return cast(Tensor, _LAYERS[number].layer(inputs))


def _shape_of(inputs: Tensor, number: int, outputs: int) -> Tensor:
    return inputs.new_empty((*inputs.shape[:-1], outputs))


_LIBRARY.impl("run_layer", _run, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("eckart::run_layer", _shape_of, lib=_LIBRARY)
