"""Some of the outputs of a layer, for linears of which a run takes a part: they are fused, and handed other inputs."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class RowsLayer(nn.Module):
    """A layer that stands for a linear; its class may say in ``forward`` that it can be asked for some outputs.

    Attributes:
        takes_rows: whether ``forward`` takes ``rows`` beside the inputs, and computes no other outputs.
    """

    takes_rows: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.takes_rows = "rows" in inspect.signature(cls.forward).parameters


class RowsLinear(RowsLayer, nn.Linear):
    """A linear layer that can be asked for some of its outputs: then it computes no others."""

    def forward(self, inputs: Tensor, rows: slice | None = None) -> Tensor:
        """Map (..., in features) to (..., out features), or to those outputs that ``rows`` are."""
        if rows is None:
            return functional.linear(inputs, self.weight, self.bias)
        return functional.linear(inputs, self.weight[rows], None if self.bias is None else self.bias[rows])


def empty_rows_linear(
    in_features: int,
    out_features: int,
    *,
    bias: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> RowsLinear:
    """Return a layer whose numbers are not set, as :func:`eckart.layers.linear.empty_linear` does."""
    place = torch.empty(0, device=device).device
    return RowsLinear(in_features, out_features, bias=bias, device="meta", dtype=dtype).to_empty(device=place)


def some_outputs(layer: nn.Module, inputs: Tensor, rows: slice | None) -> Tensor:
    """Return outputs of a layer, (..., those that ``rows`` are).

    A layer whose ``forward`` takes ``rows`` too computes no others; of another one they are taken out.

    Args:
        layer: that stands for a linear.
        inputs: (..., in features).
        rows: of its weight; None for all.
    """
    if rows is None:
        return cast(Tensor, layer(inputs))
    if isinstance(layer, RowsLayer) and layer.takes_rows:
        return cast(Tensor, layer(inputs, rows))
    return cast(Tensor, layer(inputs)[..., rows])


def rows_asked(args: tuple[Any, ...]) -> slice | None:
    """Return which outputs a layer was asked for, from what it was handed; None for all."""
    return args[1] if len(args) > 1 else None
