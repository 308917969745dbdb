"""What layers have in common whose weight is made of packed numbers before it is multiplied."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from eckart.layers.rows import RowsLayer


class _Unpacked(NamedTuple):
    """A weight and what it was made of: held too, so that no other tensor can come to lie in its place."""

    packed: tuple[Tensor, ...]
    state: tuple[object, ...]
    weight: Tensor


class PackedLinear(RowsLayer):
    """``y = W x + b`` with W unpacked in each run, or at the first one and held beside what it is made of.

    Attributes:
        holds_unpacked: whether W is held where no gradient is asked for, until the numbers change. The layer then runs
            as fast as a dense one, and takes the memory of a dense one too. Compiled graphs unpack in each run.
        bias: (out features,) or None.
    """

    holds_unpacked: bool = False
    bias: nn.Parameter | None
    _unpacked: _Unpacked | None = None

    @property
    @abstractmethod
    def weight(self) -> Tensor:
        """The weight with its zeros, (out features, in features), a new tensor: writing to it changes nothing."""

    @abstractmethod
    def packed(self) -> tuple[Tensor, ...]:
        """Return what it is made of."""

    def weight_of(self, rows: slice) -> Tensor:
        """Return some rows of the weight, (rows, in features)."""
        return self.weight[rows]

    def forward(self, inputs: Tensor, rows: slice | None = None) -> Tensor:
        """Map (..., in features) to (..., out features), or to those outputs that ``rows`` are."""
        bias: Tensor | None = self.bias
        if self._may_hold():
            weight = self._held() if rows is None else self._held()[rows]
        else:
            weight = self.weight if rows is None else self.weight_of(rows)
        if rows is not None and bias is not None:
            bias = bias[rows]
        return functional.linear(inputs, weight.to(inputs.dtype), bias)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied: not what can be made again."""
        return {**self.__dict__, "_unpacked": None}

    def _may_hold(self) -> bool:
        if not self.holds_unpacked or torch.compiler.is_compiling():
            return False
        return not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in self.packed()))

    def _held(self) -> Tensor:
        packed = self.packed()
        # PyTorch does not count for tensors of inference mode. What is made in that mode serves no gradients.
        numbers = [(t.data_ptr(), t.dtype, 0 if t.is_inference() else t._version) for t in packed]
        state = (torch.is_inference_mode_enabled(), *numbers)
        held = self._unpacked
        if held is None or held.state != state or any(a is not b for a, b in zip(held.packed, packed, strict=True)):
            self._unpacked = held = _Unpacked(packed, state, self.weight.detach())
        return held.weight
