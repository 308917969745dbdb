"""Onloads a module to a device and a compute dtype, and gives each tensor back as it was.

Between two uses the tensors of a model are in memory (:class:`ResidentWeights`) or in files (see
:mod:`eckart.checkpoint.source`). Whoever uses a module cannot tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from eckart.device import compute_dtype
from eckart.layers.linear_stack import StackLayout, part_of


@dataclass
class OnloadedModule:
    """What the tensors of a module were before it was onloaded, and what new ones become when it is given back.

    Attributes:
        module: that is onloaded.
        origins: device and dtype of each tensor that is onloaded.
        originals: by the name of a linear, its own weight (m, n), in whose place another one stands.
    """

    module: nn.Module
    origins: dict[str, tuple[torch.device, torch.dtype]]
    originals: dict[str, Tensor] = field(default_factory=dict)

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype in which the tensor ``name`` is stored."""
        return self.origins[name][1]

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """The dtype in which each tensor is stored."""
        return {name: dtype for name, (_, dtype) in self.origins.items()}

    def replace(self, name: str, layer: nn.Module) -> None:
        """Put ``layer`` in the place of the child ``name``; its tensors go where that child's weight came from."""
        device, dtype = self.origins[f"{name}.weight"]
        self.module.set_submodule(name, layer)
        for child, tensor in named_tensors(layer):
            self.origins[f"{name}.{child}"] = device, dtype if tensor.is_floating_point() else tensor.dtype

    def stored(self) -> dict[str, Tensor]:
        """Return what is to be saved of the module, by name: contiguous, on the host, in the stored dtypes."""
        return {
            name: tensor.detach().to("cpu", self.origins[name][1]).contiguous()
            for name, tensor in self.module.state_dict().items()
            if name in self.origins  # a tensor with two names is saved under one
        }


class WeightSource(Protocol):
    """Where the tensors of a model are while they are not used."""

    @contextmanager
    def onload(
        self, module: nn.Module, device: torch.device, skip: Sequence[nn.Module | None] = ()
    ) -> Iterator[OnloadedModule]:
        """Give ``module``, a part of the model, with its tensors on ``device``, and take them back at the end.

        16-bit floats come in the compute dtype. Buffers and parameters keep a wider dtype of their own, such as the
        float32 frequencies of rotary positions.

        Args:
            module: is changed in place.
            device: where it will be used.
            skip: parts of it to leave where they are, unless they share their tensors with the rest.
        """
        ...

    def read_ahead(self, module: nn.Module) -> None:
        """Take note that ``module`` will be onloaded next."""
        ...

    def fuse(self, whole: nn.Parameter, parts: Sequence[nn.Parameter], dimension: int) -> None:
        """Take note that ``whole``, which is new in the model, is made of ``parts`` along a dimension."""
        ...

    def unfuse(self, whole: nn.Parameter, parts: Sequence[nn.Parameter], dimension: int) -> None:
        """Take note that ``parts``, which are new in the model, are what :meth:`fuse` made ``whole`` of."""
        ...

    def split(self, whole: nn.Parameter, parts: Sequence[nn.Parameter], layout: StackLayout) -> None:
        """Take note that ``parts``, which are new in the model, are the matrices that lie in ``whole``."""
        ...

    def join(self, whole: nn.Parameter, parts: Sequence[nn.Parameter], layout: StackLayout) -> None:
        """Take note that ``whole``, which is new in the model, is what :meth:`split` made ``parts`` of."""
        ...


class ResidentWeights:
    """The tensors of a model in memory. What is changed while a module is onloaded stays changed."""

    def read_ahead(self, module: nn.Module) -> None:
        """See :meth:`WeightSource.read_ahead`; all is there."""

    def fuse(self, whole: nn.Parameter, parts: Sequence[nn.Parameter], dimension: int) -> None:
        """See :meth:`WeightSource.fuse`."""
        whole.data = torch.cat([part.data for part in parts], dimension)
        whole.requires_grad_(parts[0].requires_grad)

    def unfuse(self, whole: nn.Parameter, parts: Sequence[nn.Parameter], dimension: int) -> None:
        """See :meth:`WeightSource.unfuse`; the parts are copies already."""
        for part in parts:
            part.requires_grad_(whole.requires_grad)

    def split(self, whole: nn.Parameter, parts: Sequence[nn.Parameter], layout: StackLayout) -> None:
        """See :meth:`WeightSource.split`."""
        for number, part in enumerate(parts):  # copies, since tensors that share numbers are saved once
            part.data = part_of(whole.data, layout, number).clone(memory_format=torch.contiguous_format)
            part.requires_grad_(whole.requires_grad)

    def join(self, whole: nn.Parameter, parts: Sequence[nn.Parameter], layout: StackLayout) -> None:
        """See :meth:`WeightSource.join`; the whole is a copy already."""

    @contextmanager
    def onload(
        self, module: nn.Module, device: torch.device, skip: Sequence[nn.Module | None] = ()
    ) -> Iterator[OnloadedModule]:
        """See :meth:`WeightSource.onload`."""
        wanted = wanted_tensors(module, skip)
        origins: dict[str, tuple[torch.device, torch.dtype]] = {}
        for name, tensor in named_tensors(module):
            if id(tensor) in wanted:
                origins[name] = (tensor.device, tensor.dtype)
                tensor.data = tensor.data.to(device, computing_dtype(tensor, device))
        try:
            yield OnloadedModule(module, origins)
        finally:
            for name, tensor in named_tensors(module):
                if name in origins:
                    tensor.data = tensor.data.to(*origins[name])


def wanted_tensors(module: nn.Module, skip: Sequence[nn.Module | None]) -> set[int]:
    """Return the ids of the tensors of ``module`` that are not only in the parts to skip."""
    skipped = {id(part) for root in skip if root is not None for part in root.modules()}
    return {
        id(tensor)
        for part in module.modules()
        if id(part) not in skipped
        for _, tensor in named_tensors(part, recurse=False)
    }


def computing_dtype(tensor: Tensor, device: torch.device) -> torch.dtype:
    """Return the dtype in which ``tensor`` is onloaded."""
    is_half = tensor.is_floating_point() and tensor.dtype.itemsize == 2
    return compute_dtype(tensor.dtype, device) if is_half else tensor.dtype


def named_tensors(module: nn.Module, *, recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and buffers of a module, each once."""
    yield from module.named_parameters(recurse=recurse)
    yield from module.named_buffers(recurse=recurse)
