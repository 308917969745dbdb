"""The linear layers that can be factored."""

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


def dense_like(replaced: type[nn.Module], weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Return a linear layer of the class ``replaced`` with a copy of ``weight`` (out features, in features)."""
    out_features, in_features = weight.shape
    dense: nn.Module
    if replaced is Conv1D:
        dense = Conv1D(out_features, in_features).to(device=weight.device, dtype=weight.dtype)
    else:
        dense = nn.Linear(in_features, out_features, bias=bias is not None, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        weight_matrix(dense).copy_(weight)
        if bias is not None:
            cast(Tensor, dense.bias).copy_(bias)
    return dense
