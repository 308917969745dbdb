"""The modules that run in a compressed model, and the linear layers that they replace."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

# Layers whose output is ``W x + b``. Matched by exact class: a subclass may compute something else.
LINEAR_CLASSES: tuple[type[nn.Module], ...] = (nn.Linear, Conv1D)


def is_linear(module: nn.Module) -> bool:
    """Return whether ``module`` is a linear layer that can be factored."""
    return type(module) in LINEAR_CLASSES


def weight_matrix(linear: nn.Module) -> Tensor:
    """Return the weight of a linear layer as ``W`` (out features, in features), a view of its parameter."""
    weight = cast(Tensor, linear.weight)
    # GPT-2's Conv1D stores the transpose.
    return weight.T if isinstance(linear, Conv1D) else weight


def bias_vector(linear: nn.Module) -> Tensor | None:
    """Return the bias of a linear layer, (out features,), or None."""
    return cast("Tensor | None", linear.bias)


class LowRankLinear(nn.Module):
    """``y = second(first(x))``: a linear layer of rank r, as two plain ``nn.Linear`` children.

    Attributes:
        first: in features -> rank, no bias; weight (rank, in features).
        second: rank -> out features, with the bias of the replaced layer; weight (out features, rank).
        replaced: class of the layer that this one stands for, restored by :meth:`to_dense`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        *,
        bias: bool = True,
        replaced: type[nn.Module] = nn.Linear,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.rank = rank
        self.replaced = replaced
        self.first = nn.Linear(in_features, rank, bias=False, device=device, dtype=dtype)
        self.second = nn.Linear(rank, out_features, bias=bias, device=device, dtype=dtype)

    @classmethod
    def empty_like(cls, linear: nn.Module, rank: int) -> LowRankLinear:
        """Return a layer with the shape, bias, device and dtype of ``linear``, its numbers not yet set."""
        weight = weight_matrix(linear)
        return cls(
            weight.shape[1],
            weight.shape[0],
            rank,
            bias=bias_vector(linear) is not None,
            replaced=type(linear),
            device=weight.device,
            dtype=weight.dtype,
        )

    @classmethod
    def from_factors(cls, linear: nn.Module, second: Tensor, first: Tensor) -> LowRankLinear:
        """Return the layer that replaces ``linear`` with ``second @ first``, in the dtype of ``linear``.

        Args:
            linear: the layer to replace; its bias is kept.
            second: (out features, rank), any float dtype.
            first: (rank, in features), any float dtype.
        """
        layer = cls.empty_like(linear, len(first))
        bias = bias_vector(linear)
        with torch.no_grad():
            layer.first.weight.copy_(first)
            layer.second.weight.copy_(second)
            if bias is not None:
                layer.second.bias.copy_(bias)
        return layer

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in features) to (..., out features)."""
        return cast(Tensor, self.second(self.first(inputs)))

    @property
    def weight(self) -> Tensor:
        """The weight that the factors multiply to, (out features, in features), in their dtype.

        A new tensor, for code that asks a layer for its weight, its dtype or its device: writing to it changes nothing.
        """
        return self.second.weight @ self.first.weight

    def product(self) -> Tensor:
        """Return :attr:`weight`, multiplied in float64 and detached."""
        return self.second.weight.detach().double() @ self.first.weight.detach().double()

    def to_dense(self) -> nn.Module:
        """Return a layer of the replaced class with the factors multiplied (in float64, stored in their dtype)."""
        weight = self.second.weight
        bias = self.second.bias is not None
        dense: nn.Module
        if self.replaced is Conv1D:
            dense = Conv1D(self.out_features, self.in_features).to(device=weight.device, dtype=weight.dtype)
        else:
            dense = nn.Linear(self.in_features, self.out_features, bias=bias, device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            weight_matrix(dense).copy_(self.product())
            if bias:
                cast(Tensor, dense.bias).copy_(self.second.bias)
        return dense

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"
