"""The linear layers that factored ones are made of: plain ones, or ones of few bits."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor, nn

from eckart.layers.linear import empty_linear
from eckart.layers.masked import MaskedLinear
from eckart.layers.quantized import QuantizedLinear
from eckart.layers.rows import empty_rows_linear
from eckart.layers.sparse import SparseLinear
from eckart.maths.quantization import QuantScheme, find_scales, round_to_scheme
from eckart.maths.sparsity import pack_places, prune

Child = nn.Linear | QuantizedLinear | SparseLinear | MaskedLinear


class Pattern(Enum):
    """Which numbers of a child are stored, in place of a scheme for all of them."""

    TWO_OF_FOUR = "2-of-4"


class Mask(NamedTuple):
    """Any numbers of a child are stored, in place of a scheme for all of them.

    Attributes:
        numbers: how many.
    """

    numbers: int


class ChildShape(NamedTuple):
    """Of a child.

    Attributes:
        in_features: of the child.
        out_features: of the child.
        bias: whether it has one where the layer that is replaced has one.
        scheme: how its numbers are rounded, or which are left out, whatever holds for the other children; None for the
            layer's own.
    """

    in_features: int
    out_features: int
    bias: bool
    scheme: QuantScheme | Pattern | Mask | None = None


def make_child(
    shape: ChildShape,
    scheme: QuantScheme | None,
    *,
    bias: bool,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    by_rows: bool = False,
) -> Child:
    """Return a layer whose numbers are not yet set.

    Args:
        shape: of the layer.
        scheme: how its numbers are rounded, if the shape has none of its own; None stands for 16 bits.
        bias: whether the layer that is replaced has one.
        device: of its tensors.
        dtype: of what is no code.
        by_rows: whether it will be asked for some of its outputs.
    """
    in_features, out_features, bias = shape.in_features, shape.out_features, bias and shape.bias
    chosen = shape.scheme or scheme
    if chosen is None:
        empty = empty_rows_linear if by_rows else empty_linear
        child = empty(in_features, out_features, bias=bias, device=device, dtype=dtype)
        # Classes of transformers give linear layers numbers, and some look for the bias of those of a certain name.
        vars(child)["_is_hf_initialized"] = True
        return child
    if isinstance(chosen, Pattern):
        return SparseLinear(in_features, out_features, bias=bias, device=device, dtype=dtype)
    if isinstance(chosen, Mask):
        return MaskedLinear(in_features, out_features, chosen.numbers, bias=bias, device=device, dtype=dtype)
    return QuantizedLinear(in_features, out_features, chosen, bias=bias, device=device, dtype=dtype)


def dense_weight_of(child: Child) -> Tensor:
    """Return the numbers of a layer, (out features, in features), multiplied in float64 and detached."""
    return child.dense_weight() if isinstance(child, QuantizedLinear) else child.weight.detach().double()


def fill_child(
    child: Child,
    weight: Tensor,
    bias: Tensor | None,
    stored: torch.dtype | None = None,
    second_moment: Tensor | None = None,
    metric: Tensor | None = None,
    sweeps: int = 0,
) -> None:
    """Set the numbers of a layer, rounded to those that will be stored.

    Args:
        child: is changed in place.
        weight: (out features, in features) float64.
        bias: (out features,), if the layer has one.
        stored: dtype of all that is not codes; by default that of the layer.
        second_moment: of the layer's inputs, (in features, in features) float64: numbers of 16 bits or
            fewer then make up for one another, and of numbers those stay that inputs make large.
        metric: of the layer's outputs, (out features, out features) float64: codes of different rows then make up
            for one another, too; None for the identity.
        sweeps: over the codes once they are there, each followed by new scales; with a second moment only.
    """
    with torch.no_grad():
        if isinstance(child, QuantizedLinear):
            stored = stored or child.scale_parameter.dtype
            if second_moment is None:
                scales = find_scales(weight, child.scheme, None, stored)
                codes = round_to_scheme(weight, scales, child.scheme)
            else:
                # Imported when a model is compressed: who loads one rounds nothing.
                from eckart.maths.feedback import quantize

                codes, scales = quantize(weight, child.scheme, second_moment, metric, stored, sweeps)
            child.set_scales(scales)
            child.set_codes(codes)
        elif isinstance(child, SparseLinear):
            stored = stored or child.values.dtype
            kept, places = prune(weight, second_moment)
            child.values.copy_(kept.to(stored))
            child.places.copy_(pack_places(places))
        elif isinstance(child, MaskedLinear):
            child.set_numbers(weight, stored)
        else:
            stored = stored or child.weight.dtype
            if second_moment is None or stored.itemsize > 2:
                child.weight.copy_(weight.to(stored))
            else:
                from eckart.maths.feedback import cast_with_feedback

                child.weight.copy_(cast_with_feedback(weight, stored, second_moment))
        if bias is not None:
            assert child.bias is not None
            child.bias.copy_(bias.to(stored))
