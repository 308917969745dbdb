"""Linear layers of which some outputs, or some inputs, are kept: no number of the others is stored."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from eckart.layers.linear import bias_vector, dense_like, weight_matrix
from eckart.layers.pivoted import index_dtype


class KeptLinear(nn.Linear):
    """A linear layer with ``kept`` of the outputs or of the inputs of the one that it stands for.

    Its tensors have the names of a plain linear layer's. Without an index nobody needs the places of what was dropped,
    and it is a plain linear layer of a smaller shape.

    Attributes:
        weight: (kept, in features) or (out features, kept).
        bias: (kept,) or (out features,), or None.
        index: places of what is kept, (kept,) whole numbers, rising; None where all that is there is kept.
        full: outputs, or inputs, of the layer that it stands for.
        kept: how many of them stay.
        replaced: class of that layer, restored by :meth:`to_dense`.
    """

    index: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        full: int,
        kept: int,
        *,
        bias: bool = True,
        replaced: type[nn.Module] = nn.Linear,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, device="meta", dtype=dtype)
        place = torch.empty(0, device=device).device  # where there is none, that of the context
        self.to_empty(device=place)
        self.full, self.kept, self.replaced = full, kept, replaced
        self.register_buffer("index", torch.arange(kept, device=place, dtype=index_dtype(full)))
        vars(self)["_is_hf_initialized"] = True  # classes of transformers give linear layers numbers

    @classmethod
    @abstractmethod
    def empty_like(cls, linear: nn.Module, kept: int) -> Self:
        """Return a layer with the shape, bias, device and dtype of ``linear``, its numbers not yet set.

        Args:
            linear: the layer to replace.
            kept: how many of its outputs or inputs stay.
        """

    @property
    @abstractmethod
    def dense_shape(self) -> tuple[int, int]:
        """(out features, in features) of the layer that this one stands for."""

    def places(self) -> Tensor:
        """Return the index as int64; where none is held, the first places: all the same in any order."""
        return torch.arange(self.kept, device=self.weight.device) if self.index is None else self.index.long()

    def has_valid_index(self) -> bool:
        """Return whether the index names places that there are, rising."""
        if self.index is None:
            return True
        places = self.index.long()
        rising = bool((places.diff() > 0).all())
        return rising and int(places[0]) >= 0 and int(places[-1]) < self.full

    def drop_index(self) -> None:
        """Give, or take, only what is kept."""
        self.index = None

    @abstractmethod
    def dense_weight(self) -> Tensor:
        """Return the weight with zeros for what was dropped, (out features, in features) float64, detached."""

    @abstractmethod
    def dense_bias(self) -> Tensor | None:
        """Return the bias of the layer that this one stands for, (out features,), or None."""

    def to_dense(self) -> nn.Module:
        """Return a layer of the replaced class, with zeros in place of what was dropped."""
        return dense_like(self.replaced, self.dense_weight().to(self.weight.dtype), self.dense_bias())

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        out_features, in_features = self.dense_shape
        return f"in_features={in_features}, out_features={out_features}, kept={self.kept} of {self.full}"


class KeptOutputsLinear(KeptLinear):
    """Gives the outputs that are kept in their places and zeros in the others; without an index, those alone.

    Attributes:
        on_latents: is handed what is kept of each pass, (..., kept), such as by a cache that keeps it.
    """

    on_latents: Callable[[Tensor], object] | None = None

    @property
    def has_latents(self) -> bool:
        """Whether all outputs follow from fewer numbers a token."""
        return self.index is not None

    @property
    def latent_width(self) -> int:
        """Those numbers."""
        return self.kept

    @classmethod
    def empty_like(cls, linear: nn.Module, kept: int) -> Self:
        """See :meth:`KeptLinear.empty_like`."""
        weight = weight_matrix(linear)
        layer = cls(weight.shape[1], kept, weight.shape[0], kept, **_options(linear))
        layer.out_features = layer.full  # what it gives, for code that asks
        return layer

    def drop_index(self) -> None:
        """See :meth:`KeptLinear.drop_index`."""
        super().drop_index()
        self.out_features = self.kept

    @property
    def dense_shape(self) -> tuple[int, int]:
        """See :attr:`KeptLinear.dense_shape`."""
        return self.full, self.in_features

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in features) to (..., full), or to (..., kept) without an index."""
        latents = functional.linear(inputs, self.weight, self.bias)
        if self.on_latents is not None:
            self.on_latents(latents)
        return self.decode(latents)

    def decode(self, latents: Tensor, rows: slice | None = None) -> Tensor:
        """Map what is kept, (..., kept), to all outputs, (..., full), or to those that ``rows`` are."""
        outputs = latents
        if self.index is not None:
            empty = latents.new_zeros(*latents.shape[:-1], self.full)
            outputs = empty.index_copy(-1, self.index.long(), latents)
        return outputs if rows is None else outputs[..., rows]

    def dense_weight(self) -> Tensor:
        """See :meth:`KeptLinear.dense_weight`."""
        weight = self.weight.detach().double()
        return weight.new_zeros(self.dense_shape).index_copy(0, self.places(), weight)

    def dense_bias(self) -> Tensor | None:
        """See :meth:`KeptLinear.dense_bias`."""
        bias = bias_vector(self)
        return None if bias is None else bias.detach().new_zeros(self.full).index_copy(0, self.places(), bias.detach())


class KeptInputsLinear(KeptLinear):
    """Looks at the inputs that are kept, of all; without an index it is handed those alone."""

    @classmethod
    def empty_like(cls, linear: nn.Module, kept: int) -> Self:
        """See :meth:`KeptLinear.empty_like`."""
        weight = weight_matrix(linear)
        layer = cls(kept, weight.shape[0], weight.shape[1], kept, **_options(linear))
        layer.in_features = layer.full
        return layer

    def drop_index(self) -> None:
        """See :meth:`KeptLinear.drop_index`."""
        super().drop_index()
        self.in_features = self.kept

    @property
    def dense_shape(self) -> tuple[int, int]:
        """See :attr:`KeptLinear.dense_shape`."""
        return self.out_features, self.full

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., full), or (..., kept) without an index, to (..., out features)."""
        seen = inputs if self.index is None else inputs.index_select(-1, self.index.long())
        return functional.linear(seen, self.weight, self.bias)

    def dense_weight(self) -> Tensor:
        """See :meth:`KeptLinear.dense_weight`."""
        weight = self.weight.detach().double()
        return weight.new_zeros(self.dense_shape).index_copy(1, self.places(), weight)

    def dense_bias(self) -> Tensor | None:
        """See :meth:`KeptLinear.dense_bias`."""
        return bias_vector(self)


def _options(linear: nn.Module) -> dict[str, Any]:
    weight = weight_matrix(linear)
    bias = bias_vector(linear) is not None
    return {"bias": bias, "replaced": type(linear), "device": weight.device, "dtype": weight.dtype}
