"""Layers that stand for a linear one, with their outputs or inputs in another order: only numbers change places."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eckart.layers.linear import bias_vector, is_linear, weight_matrix
from eckart.layers.pivoted import PivotedLinear
from eckart.layers.quantized import QuantizedLinear
from eckart.layers.two_factor import LowRankLinear

TWO_CHILDREN = (LowRankLinear, PivotedLinear)  # whose inputs are those of the first


def outputs_permutable(layer: nn.Module) -> bool:
    """Return whether :func:`permute_outputs` knows the layer."""
    return is_linear(layer) or type(layer) in (*TWO_CHILDREN, QuantizedLinear)


def inputs_permutable(layer: nn.Module) -> bool:
    """Return whether :func:`permute_inputs` knows the layer: not where neighbouring inputs share a scale."""
    if type(layer) in TWO_CHILDREN:
        return inputs_permutable(layer.get_submodule("first"))
    if isinstance(layer, QuantizedLinear):
        return layer.scheme.bits == 8 and layer.scheme.group is None
    return is_linear(layer)


@torch.no_grad()
def permute_outputs(layer: nn.Module, order: Tensor) -> None:
    """Make what was output ``order[i]`` of a layer its output i.

    Args:
        layer: is changed in place; :func:`outputs_permutable`.
        order: (out features,) int64, each number once.
    """
    if isinstance(layer, PivotedLinear):
        layer.index = layer.places()[order]
    elif isinstance(layer, LowRankLinear):
        permute_outputs(layer.second, order)
    else:
        bias = bias_vector(layer)
        rows = layer.by_rows if isinstance(layer, QuantizedLinear) else [weight_matrix(layer)]
        for tensor in rows if bias is None else [*rows, bias]:
            tensor.copy_(tensor[order])


@torch.no_grad()
def permute_inputs(layer: nn.Module, order: Tensor) -> None:
    """Make a layer take as input i what was its input ``order[i]``.

    Args:
        layer: is changed in place; :func:`inputs_permutable`.
        order: (in features,) int64, each number once.
    """
    if isinstance(layer, TWO_CHILDREN):
        permute_inputs(layer.first, order)
    else:
        columns = layer.codes if isinstance(layer, QuantizedLinear) else weight_matrix(layer)
        columns.copy_(columns[:, order])
