"""The linear layers that can be factored."""

from __future__ import annotations

from typing import cast

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
