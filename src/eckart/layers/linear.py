"""The linear layers that can be factored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

# Layers whose output is ``W x + b``. Of a subclass that is seen by numbers, since it may compute something else.
LINEAR_CLASSES: tuple[type[nn.Module], ...] = (nn.Linear, Conv1D)
ROUNDING = 1e-12  # of float64


def is_linear(module: nn.Module) -> bool:
    """Return whether ``module`` is a linear layer that can be factored: it holds its weight, and gives ``W x + b``."""
    if not isinstance(module, LINEAR_CLASSES):
        return False
    # What computes its weight anew, such as a parametrised layer, or holds it as codes, has no such parameter.
    weight = module._parameters.get("weight")
    if weight is None or weight.ndim != 2 or not weight.is_floating_point() or "bias" not in module._parameters:
        return False
    own = type(module) in LINEAR_CLASSES or type(module).forward in (nn.Linear.forward, Conv1D.forward)
    return own or _computes_linear(module)


def _computes_linear(module: nn.Module) -> bool:
    """Return whether a layer computes ``W x + b``, found with a small weight and numbers from tiny to huge."""
    generator = torch.Generator().manual_seed(0)
    place: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}  # also where models are built without numbers

    def numbers(*shape: int) -> Tensor:
        sizes = 10 ** torch.linspace(-3, 3, shape[-1], **place)
        return torch.randn(*shape, generator=generator, **place) * sizes

    inputs, tensors = numbers(2, 3, 7), {"weight": numbers(5, 7)}
    if bias_vector(module) is not None:
        tensors["bias"] = numbers(5)
    expected = functional.linear(inputs, tensors["weight"], tensors.get("bias"))
    if isinstance(module, Conv1D):
        tensors["weight"] = tensors["weight"].T
    # The same layer but for its tensors, and its forward without the hooks of whoever looks at it.
    double = object.__new__(type(module))
    double.__dict__.update(module.__dict__, _parameters={**module._parameters, **tensors})
    try:
        with torch.no_grad():
            found = type(module).forward(double, inputs)
    except Exception:  # what a class of somebody else raises where it is no plain linear layer can be anything
        return False
    if not isinstance(found, Tensor) or found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    return bool((found - expected).abs().max() <= ROUNDING * expected.abs().max())


def input_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the input of a linear layer from what it is handed, by position or by name."""
    return cast(Tensor, args[0] if args else next(iter(kwargs.values())))


def weight_matrix(linear: nn.Module) -> Tensor:
    """Return the weight of a linear layer as ``W`` (out features, in features), a view of its parameter."""
    weight = cast(Tensor, linear.weight)
    # GPT-2's Conv1D stores the transpose.
    return weight.T if isinstance(linear, Conv1D) else weight


def bias_vector(linear: nn.Module) -> Tensor | None:
    """Return the bias of a linear layer, (out features,), or None."""
    return cast("Tensor | None", linear.bias)


def empty_linear(
    in_features: int,
    out_features: int,
    *,
    bias: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Linear:
    """Return a linear layer whose numbers are not set: PyTorch's own would be drawn from the user's random numbers."""
    place = torch.empty(0, device=device).device  # where there is none, that of the context
    return nn.Linear(in_features, out_features, bias=bias, device="meta", dtype=dtype).to_empty(device=place)


def empty_conv1d(out_features: int, in_features: int, *, device: torch.device, dtype: torch.dtype) -> Conv1D:
    """Return a ``Conv1D`` whose numbers are not set."""
    with torch.device("meta"):
        layer = Conv1D(out_features, in_features)
    return cast(Conv1D, layer.to(dtype).to_empty(device=device))


def dense_like(replaced: type[nn.Module], weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Return a linear layer with a copy of ``weight`` (out features, in features), in the place of a ``replaced``.

    It is a ``Conv1D`` for one of those. For a subclass it is the plain class, which computes the same.
    """
    out_features, in_features = weight.shape
    dense: nn.Module
    if issubclass(replaced, Conv1D):
        dense = empty_conv1d(out_features, in_features, device=weight.device, dtype=weight.dtype)
    else:
        dense = empty_linear(in_features, out_features, bias=bias is not None, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        weight_matrix(dense).copy_(weight)
        if bias is not None:
            cast(Tensor, dense.bias).copy_(bias)
        elif isinstance(dense, Conv1D):
            dense.bias.zero_()
    return dense
