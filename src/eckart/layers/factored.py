"""What all layers that stand for a linear layer of low rank have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from eckart.layers.child import Child, ChildShape, make_child
from eckart.layers.linear import bias_vector, dense_like, weight_matrix
from eckart.layers.rows import RowsLayer, RowsLinear
from eckart.maths.quantization import QuantScheme


class FactoredLinear(RowsLayer):
    """A linear layer of rank r, as two children that are linear layers themselves.

    With 16-bit numbers they are plain ``nn.Linear``, so that what works on linear layers works on them.

    Attributes:
        first: in features -> rank.
        second: from rank on.
        replaced: class of the layer that this one stands for, restored by :meth:`to_dense`.
        scheme: how the numbers are rounded; None for 16 bits.
        has_latents: whether all outputs follow from ``latent_width`` numbers a token, its latents.
        on_latents: is handed the latents of each pass, (..., latent width), such as by a cache that keeps them.
    """

    has_latents: ClassVar[bool] = True
    on_latents: Callable[[Tensor], object] | None = None
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
        first, second = self.child_shapes()
        self.first = make_child(first, scheme, bias=bias, device=device, dtype=dtype)
        by_rows = issubclass(replaced, RowsLinear)
        self.second = make_child(second, scheme, bias=bias, device=device, dtype=dtype, by_rows=by_rows)

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

    def forward(self, inputs: Tensor, rows: slice | None = None) -> Tensor:
        """Map (..., in features) to (..., out features), or to those outputs that ``rows`` are."""
        latents = self.encode(inputs)
        if self.on_latents is not None:
            self.on_latents(latents)
        return self.decode(latents, rows)

    def encode(self, inputs: Tensor) -> Tensor:
        """Map (..., in features) to the latents, (..., latent width)."""
        outputs: Tensor = self.first(inputs)
        return outputs

    @abstractmethod
    def decode(self, latents: Tensor, rows: slice | None = None) -> Tensor:
        """Map the latents, (..., latent width), to (..., out features), or to those outputs that ``rows`` are."""

    def set_bias(self, bias: Tensor, stored: torch.dtype) -> None:
        """Give the children the biases that make up the bias of the whole.

        Args:
            bias: (out features,) float64.
            stored: dtype that biases will be saved in, to which they are rounded.
        """
        assert self.second.bias is not None
        self.second.bias.copy_(bias.to(stored))

    @property
    def latent_width(self) -> int:
        """How many latents there are a token: the rank, unless a class passes something else on beside."""
        return self.rank

    def child_shapes(self) -> tuple[ChildShape, ChildShape]:
        """Return the shapes of both children of this very layer."""
        return self.shapes(self.out_features, self.in_features, self.rank)

    @staticmethod
    @abstractmethod
    def shapes(out_features: int, in_features: int, rank: int) -> tuple[ChildShape, ChildShape]:
        """Return those of both children.

        Raises:
            ValueError: the layer cannot have that rank.
        """

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
    def dense_weight(self) -> Tensor:
        """Return :attr:`weight`, multiplied in float64 and detached."""

    @abstractmethod
    def dense_bias(self) -> Tensor | None:
        """Return the bias of the layer that this one stands for, (out features,), or None."""

    def index_problem(self) -> str | None:
        """Return what is wrong with the whole numbers that say what is where, as a file gave them; None if nothing is.

        It goes on behind "an index that". Numbers that are not in memory are not looked at.
        """
        return None

    def to_dense(self) -> nn.Module:
        """Return a layer of the replaced class with the factors multiplied (in float64, stored in their dtype)."""
        return dense_like(self.replaced, self.dense_weight().to(self.first.weight.dtype), self.dense_bias())

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"
