"""Lends a module to a device and a compute dtype, and gives each tensor back as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eckart.device import compute_dtype


@dataclass
class Placement:
    """What the tensors of a module were before it was placed, and what new ones become when it is given back."""

    module: nn.Module
    homes: dict[str, tuple[torch.device, torch.dtype]]

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype in which the tensor ``name`` is stored."""
        return self.homes[name][1]

    def replace(self, name: str, layer: nn.Module) -> None:
        """Put ``layer`` in the place of the child ``name``; its tensors go where that child's weight came from."""
        home = self.homes[f"{name}.weight"]
        self.module.set_submodule(name, layer)
        for child, _ in _tensors(layer):
            self.homes[f"{name}.{child}"] = home


@contextmanager
def placed(module: nn.Module, device: torch.device, skip: Sequence[nn.Module | None] = ()) -> Iterator[Placement]:
    """Move ``module`` to ``device``, its 16-bit floats in the compute dtype, and back again at the end.

    Buffers and parameters keep a wider dtype of their own, such as the float32 frequencies of rotary positions.

    Args:
        module: is changed in place.
        device: where it will be used.
        skip: parts of it to leave where they are, unless they share their tensors with the rest.
    """
    skipped = {id(part) for root in skip if root is not None for part in root.modules()}
    rest = {id(t) for part in module.modules() if id(part) not in skipped for _, t in _tensors(part, recurse=False)}
    homes: dict[str, tuple[torch.device, torch.dtype]] = {}
    for name, tensor in _tensors(module):
        if id(tensor) in rest:
            homes[name] = (tensor.device, tensor.dtype)
            tensor.data = tensor.data.to(device, _computing_dtype(tensor, device))
    placement = Placement(module, homes)
    try:
        yield placement
    finally:
        for name, tensor in _tensors(module):
            if name in homes:
                tensor.data = tensor.data.to(*homes[name])


def _computing_dtype(tensor: Tensor, device: torch.device) -> torch.dtype:
    is_half = tensor.is_floating_point() and tensor.dtype.itemsize == 2
    return compute_dtype(tensor.dtype, device) if is_half else tensor.dtype


def _tensors(module: nn.Module, *, recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=recurse)
    yield from module.named_buffers(recurse=recurse)
