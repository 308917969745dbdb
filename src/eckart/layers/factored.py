"""What all layers that stand for a linear layer of low rank have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from eckart.layers.child import Child, ChildShape, dense_weight_of, fill_child, make_child
from eckart.layers.linear import bias_vector, dense_like, weight_matrix
from eckart.maths.lowrank import FLOAT32_FLOOR, Whitening, refit, whiten
from eckart.maths.quantization import QuantScheme


@dataclass(frozen=True)
class Fit:
    """What a layer is made to fit: ``|| C^T (T - W') R ||^2``, with ``S = R R^T`` and the output metric ``C C^T``.

    Attributes:
        target: T, (m, n) float64, of any rank.
        inputs: S, (n, n) float64, or R and its inverse; each is found of the other when it is asked for.
        metric: C and its inverse, of full rank m; None for the identity.
        constant: gives, for the weight as it is stored, what is added to the bias, (m,) float64; None for nothing.
    """

    target: Tensor
    inputs: Whitening | Tensor
    metric: Whitening | None = None
    constant: Callable[[Tensor], Tensor] | None = None

    @cached_property
    def second_moment(self) -> Tensor:
        """S of the inputs, (n, n) float64."""
        return self.inputs if isinstance(self.inputs, Tensor) else self.inputs.second_moment

    @cached_property
    def whitening(self) -> Whitening:
        """R and its inverse."""
        return whiten(self.inputs, floor=FLOAT32_FLOOR) if isinstance(self.inputs, Tensor) else self.inputs

    def loss(self, weight: Tensor) -> float:
        """Return what a weight, (m, n) float64, loses."""
        missing = (self.target - weight) @ self.whitening.root
        return float((missing if self.metric is None else self.metric.root.T @ missing).square().sum())


@dataclass(frozen=True)
class Arrangement:
    """How a weight (m, n) of rank r is split.

    Attributes:
        first: (r, n).
        second: (k, r); its product with ``first`` is rows of the weight.
        second_rows: which, (k,).
        first_rows: those that ``first`` itself is, (r,); None if it is none.
    """

    first: Tensor
    second: Tensor
    second_rows: Tensor
    first_rows: Tensor | None = None


class FactoredLinear(nn.Module):
    """A linear layer of rank r, as two children that are linear layers themselves.

    With 16-bit numbers they are plain ``nn.Linear``, so that what works on linear layers works on them.

    Attributes:
        first: in features -> rank.
        second: from rank on.
        replaced: class of the layer that this one stands for, restored by :meth:`to_dense`.
        scheme: how the numbers are rounded; None for 16 bits.
    """

    first: Child
    second: Child

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        *,
        bias: bool = True,
        replaced: type[nn.Module] = nn.Linear,
        scheme: QuantScheme | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.rank = rank
        self.replaced = replaced
        self.scheme = scheme
        first, second = self.shapes(out_features, in_features, rank)
        self.first = make_child(first, scheme, bias=bias, device=device, dtype=dtype)
        self.second = make_child(second, scheme, bias=bias, device=device, dtype=dtype)

    @classmethod
    def empty_like(
        cls, linear: nn.Module, rank: int, scheme: QuantScheme | None = None, *, affine: bool = False, **options: Any
    ) -> Self:
        """Return a layer with the shape, bias, device and dtype of ``linear``, its numbers not yet set.

        Args:
            linear: the layer to replace.
            rank: of the new one.
            scheme: how its numbers are rounded; None for 16 bits.
            affine: whether it has a bias even if ``linear`` has none.
            options: of the class.
        """
        weight = weight_matrix(linear)
        return cls(
            weight.shape[1],
            weight.shape[0],
            rank,
            bias=affine or bias_vector(linear) is not None,
            replaced=type(linear),
            scheme=scheme,
            device=weight.device,
            dtype=weight.dtype,
            **options,
        )

    @classmethod
    def from_factors(
        cls,
        linear: nn.Module,
        second: Tensor,
        first: Tensor,
        stored: torch.dtype | None = None,
        *,
        scheme: QuantScheme | None = None,
        fit: Fit | None = None,
    ) -> Self:
        """Return the layer that replaces ``linear`` with ``second @ first``, in the dtype of ``linear``.

        Args:
            linear: the layer to replace; its bias is kept.
            second: (out features, rank), any float dtype.
            first: (rank, in features), any float dtype.
            stored: dtype that the numbers will be saved in, to which they are rounded; that of ``linear`` by default.
            scheme: how weights are rounded; None for ``stored``.
            fit: by which the loss of rounding is made up for, and its constant; None to round to what is nearest.
        """
        layer = cls.empty_like(linear, len(first), scheme, affine=fit is not None and fit.constant is not None)
        layer.set_factors(second.detach().double(), first.detach().double(), stored, fit)
        layer.take_bias(linear, stored, fit)
        return layer

    def set_factors(
        self, second: Tensor, first: Tensor, stored: torch.dtype | None = None, fit: Fit | None = None
    ) -> None:
        """Set the weights of the children, rounded to those that will be stored.

        Args:
            second: (out features, rank) float64.
            first: (rank, in features) float64.
            stored: dtype of 16-bit numbers; by default that of the layer.
            fit: with it, what rounding the first factor loses is made up for by the second.
        """
        sizes = None
        if fit is not None:
            inner = first @ fit.second_moment @ first.T
            sizes = ((second @ inner) * second).sum(dim=1).clamp_min(0).sqrt()
        split = self.arrange(second, first, sizes)
        fill_child(self.first, split.first, None, stored, None if fit is None else fit.second_moment)
        kept, moment = split.second, None
        if fit is not None:
            held = dense_weight_of(self.first)
            # In 16 bits nothing but the rounding is made up for: the product is what was asked for.
            target = (second @ first if self.scheme is None else fit.target)[split.second_rows]
            kept = refit(kept, held, target, fit.second_moment)
            moment = held @ fit.second_moment @ held.T
        fill_child(self.second, kept, None, stored, moment)
        self.set_rows(split)

    def take_bias(self, linear: nn.Module, stored: torch.dtype | None = None, fit: Fit | None = None) -> None:
        """Set the bias to that of ``linear`` and the constant of ``fit``, if there are any.

        Args:
            linear: the layer that is replaced.
            stored: dtype that biases will be saved in; by default that of ``linear``.
            fit: may have a constant.
        """
        bias = bias_vector(linear)
        total = None if bias is None else bias.detach().double()
        if fit is not None and fit.constant is not None:
            added = fit.constant(self.product())
            total = added if total is None else total.to(added) + added
        if total is not None:
            with torch.no_grad():
                self.set_bias(total, stored or weight_matrix(linear).dtype)

    def set_bias(self, bias: Tensor, stored: torch.dtype) -> None:
        """Give the children the biases that make up ``bias``, (out features,) float64, of the whole."""
        assert self.second.bias is not None
        self.second.bias.copy_(bias.to(stored))

    @staticmethod
    @abstractmethod
    def shapes(out_features: int, in_features: int, rank: int) -> tuple[ChildShape, ChildShape]:
        """Return those of both children.

        Raises:
            ValueError: the layer cannot have that rank.
        """

    @classmethod
    @abstractmethod
    def arrange(cls, second: Tensor, first: Tensor, sizes: Tensor | None = None) -> Arrangement:
        """Split ``second @ first``, (m, r) and (r, n) float64, as this layer holds it.

        ``sizes`` are those of the outputs, (m,), if they are known.
        """

    def set_rows(self, arrangement: Arrangement) -> None:
        """Remember which output is where, if they are not in order."""

    @property
    @abstractmethod
    def weight(self) -> Tensor:
        """The weight that the factors multiply to, (out features, in features), in their dtype.

        A new tensor, for code that asks a layer for its weight, its dtype or its device: writing to it changes nothing.
        """

    @property
    def bias(self) -> Tensor | None:
        """The bias, (out features,), or None, for code that asks a layer for it; not to be written to."""
        return self.dense_bias()

    @abstractmethod
    def product(self) -> Tensor:
        """Return :attr:`weight`, multiplied in float64 and detached."""

    @abstractmethod
    def dense_bias(self) -> Tensor | None:
        """Return the bias of the layer that this one stands for, (out features,), or None."""

    def to_dense(self) -> nn.Module:
        """Return a layer of the replaced class with the factors multiplied (in float64, stored in their dtype)."""
        return dense_like(self.replaced, self.product().to(self.first.weight.dtype), self.dense_bias())

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"
