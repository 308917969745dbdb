"""Whether all weights of a model are numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eckart.errors import NonFiniteError


def check_finite(module: nn.Module, path: str = "", skip: Sequence[nn.Module | None] = ()) -> None:
    """Raise if a parameter is NaN or infinite.

    Args:
        module: whose parameters are looked at, those that are in memory.
        path: of it, in the model.
        skip: modules inside it that are left out.

    Raises:
        NonFiniteError: naming the parameter.
    """
    left_out = {id(part) for root in skip if root is not None for part in root.modules()}
    for name, part in module.named_modules(prefix=path):
        if id(part) in left_out:
            continue
        for leaf, parameter in part.named_parameters(recurse=False):
            if not is_finite(parameter.detach()):
                raise NonFiniteError(
                    f"The {leaf} of {name or type(module).__name__} is NaN or infinite. "
                    "The model is not usable as it is."
                )


def is_finite(tensor: Tensor) -> bool:
    """Return whether all numbers of a tensor are; in one pass and without a copy, since a model is large."""
    if tensor.is_meta or not tensor.numel() or not tensor.is_floating_point():
        return True
    wide = tensor.float() if tensor.dtype.itemsize < 2 else tensor
    return bool(torch.isfinite(torch.stack(wide.aminmax())).all())  # both are NaN where a number is
