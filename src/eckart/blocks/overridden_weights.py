"""A model some of whose weights are others than those that are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from eckart.blocks.onload import OnloadedModule, WeightSource, wanted_tensors
from eckart.layers import weight_matrix
from eckart.layers.linear_stack import StackLayout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class OverriddenWeights:
    """Onloads the linears of a model with other weights. What is stored stays as it is.

    Args:
        inner: where the model's tensors are.
        model: the whole of it.
        others: weights (m, n) in any float dtype, by the path of their linear.
    """

    def __init__(self, inner: WeightSource, model: PreTrainedModel, others: Mapping[str, Tensor]) -> None:
        self._inner, self._others = inner, others
        # By identity, since a module that is onloaded does not know its own path.
        self._paths = {id(model.get_submodule(path)): path for path in others}

    def read_ahead(self, module: nn.Module) -> None:
        """See :meth:`eckart.blocks.onload.WeightSource.read_ahead`."""
        self._inner.read_ahead(module)

    def fuse(self, whole: nn.Parameter, parts: Sequence[nn.Parameter], dimension: int) -> None:
        """See :meth:`eckart.blocks.onload.WeightSource.fuse`."""
        self._inner.fuse(whole, parts, dimension)

    def unfuse(self, whole: nn.Parameter, parts: Sequence[nn.Parameter], dimension: int) -> None:
        """See :meth:`eckart.blocks.onload.WeightSource.unfuse`."""
        self._inner.unfuse(whole, parts, dimension)

    def split(self, whole: nn.Parameter, parts: Sequence[nn.Parameter], layout: StackLayout) -> None:
        """See :meth:`eckart.blocks.onload.WeightSource.split`."""
        self._inner.split(whole, parts, layout)

    def join(self, whole: nn.Parameter, parts: Sequence[nn.Parameter], layout: StackLayout) -> None:
        """See :meth:`eckart.blocks.onload.WeightSource.join`."""
        self._inner.join(whole, parts, layout)

    @contextmanager
    def onload(
        self, module: nn.Module, device: torch.device, skip: Sequence[nn.Module | None] = ()
    ) -> Iterator[OnloadedModule]:
        """See :meth:`eckart.blocks.onload.WeightSource.onload`."""
        with self._inner.onload(module, device, skip) as onloaded:
            kept: list[tuple[Tensor, Tensor]] = []
            wanted = wanted_tensors(module, skip)
            for name, linear in module.named_modules():
                if id(linear) not in self._paths:
                    continue
                parameter = linear.weight
                assert isinstance(parameter, Tensor)
                if id(parameter) not in wanted:
                    continue
                kept.append((parameter, parameter.data))
                onloaded.originals[name] = weight_matrix(linear).detach()
                parameter.data = parameter.data.clone()
                with torch.no_grad():
                    weight_matrix(linear).copy_(self._others[self._paths[id(linear)]])
            try:
                yield onloaded
            finally:
                for parameter, data in kept:
                    parameter.data = data
