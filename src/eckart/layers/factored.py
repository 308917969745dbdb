"""What all layers that stand for a linear layer of low rank have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from eckart.layers.linear import bias_vector, weight_matrix


class FactoredLinear(nn.Module):
    """A linear layer of rank r, as two plain ``nn.Linear`` children, so that what works on linear layers works on them.

    Attributes:
        first: in features -> rank.
        second: from rank on.
        replaced: class of the layer that this one stands for, restored by :meth:`to_dense`.
    """

    first: nn.Linear
    second: nn.Linear

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
        self.make_children(bias=bias, device=device, dtype=dtype)

    @abstractmethod
    def make_children(self, *, bias: bool, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Make :attr:`first` and :attr:`second`, their numbers not yet set."""

    @classmethod
    def empty_like(cls, linear: nn.Module, rank: int) -> Self:
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
    @abstractmethod
    def from_factors(cls, linear: nn.Module, second: Tensor, first: Tensor, stored: torch.dtype | None = None) -> Self:
        """Return the layer that replaces ``linear`` with ``second @ first``, in the dtype of ``linear``.

        Args:
            linear: the layer to replace; its bias is kept.
            second: (out features, rank), any float dtype.
            first: (rank, in features), any float dtype.
            stored: dtype that the numbers will be saved in, to which they are rounded; that of ``linear`` by default.
        """

    @property
    @abstractmethod
    def weight(self) -> Tensor:
        """The weight that the factors multiply to, (out features, in features), in their dtype.

        A new tensor, for code that asks a layer for its weight, its dtype or its device: writing to it changes nothing.
        """

    @abstractmethod
    def product(self) -> Tensor:
        """Return :attr:`weight`, multiplied in float64 and detached."""

    @abstractmethod
    def dense_bias(self) -> Tensor | None:
        """Return the bias of the layer that this one stands for, (out features,), or None."""

    def to_dense(self) -> nn.Module:
        """Return a layer of the replaced class with the factors multiplied (in float64, stored in their dtype)."""
        weight = self.first.weight
        bias = self.dense_bias()
        dense: nn.Module
        if self.replaced is Conv1D:
            dense = Conv1D(self.out_features, self.in_features).to(device=weight.device, dtype=weight.dtype)
        else:
            dense = nn.Linear(
                self.in_features, self.out_features, bias=bias is not None, device=weight.device, dtype=weight.dtype
            )
        with torch.no_grad():
            weight_matrix(dense).copy_(self.product())
            if bias is not None:
                cast(Tensor, dense.bias).copy_(bias)
        return dense

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"
