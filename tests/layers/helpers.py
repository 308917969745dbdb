"""Layers made of factors, as a compression makes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from eckart.layers import FactoredLinear
from eckart.maths.quantization import QuantScheme
from eckart.methods.structure import STRUCTURES
from eckart.methods.structure.fitting import Fit
from eckart.methods.structure.fitting.base import set_bias


def from_factors(
    layer_class: type[FactoredLinear],
    linear: nn.Module,
    second: torch.Tensor,
    first: torch.Tensor,
    stored: torch.dtype | None = None,
    *,
    scheme: QuantScheme | None = None,
    fit: Fit | None = None,
) -> Any:
    """Return the layer of that class in the place of ``linear``, with feedback if there is a fit."""
    fitter = next(kind.model_validate({}) for kind in STRUCTURES.values() if kind.layer is layer_class).fitter
    affine = fit is not None and fit.constant is not None
    layer = layer_class.empty_like(linear, len(first), scheme, affine=affine)
    fitter.set_factors(layer, second.detach().double(), first.detach().double(), stored, fit)
    set_bias(layer, linear, stored, fit)
    return layer
