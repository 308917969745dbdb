"""A block whose factors are trained by adapters: what is trained is small, and is merged when the block is stored."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from eckart.compression.distil.student import StudentBlock
from eckart.layers import FactoredLinear
from eckart.methods.distillation import LoraRecovery


class LoraBlock(StudentBlock):
    """One block: one factor of each of its layers has an adapter, and all else stays as it is.

    Args:
        module: as for :class:`StudentBlock`, like the arguments that follow but for the last two.
        stored: all tensors by name.
        config: of the training, with rank and scale of the adapters.
        device: where the block is used.
        file: that holds it between uses.
        fixed: names of parameters that are not trained.
        side: the factor that is adapted, ``first`` or ``second``.
        generator: of the adapters' start, on the CPU.
    """

    config: LoraRecovery

    def __init__(
        self,
        module: nn.Module,
        stored: Mapping[str, Tensor],
        config: LoraRecovery,
        device: torch.device,
        file: Path | None,
        fixed: Collection[str],
        side: str,
        generator: torch.Generator,
    ) -> None:
        self.side, self.generator, self.scale = side, generator, config.alpha / config.rank
        super().__init__(module, stored, config, device, file, fixed)

    def set_up(self, stored: Mapping[str, Tensor], fixed: Collection[str]) -> None:
        """See :meth:`StudentBlock.set_up`: adapters are trained, and all that is stored is not."""
        names = [
            name
            for path, layer in self.module.named_modules()
            if isinstance(layer, FactoredLinear)
            and (name := f"{path}.{self.side}.weight") in stored
            and name not in fixed
        ]
        self.of_module = {name for name, _ in self.module.named_parameters()}
        self.dtypes = {name: stored[name].dtype for name in names}
        self.fixed = {name: tensor.to(self.device) for name, tensor in stored.items()}
        self.parameters = {
            f"{name}.{part}": nn.Parameter(self._start(stored[name], part).to(self.device))
            for name in names
            for part in ("down", "up")
        }

    @property
    def tensors(self) -> dict[str, Tensor]:
        """See :attr:`StudentBlock.tensors`: all in float32, factors with their adapters."""
        return {**self._others(), **{name: self._merged(name) for name in self.dtypes}}

    @property
    def as_stored(self) -> dict[str, Tensor]:
        """See :attr:`StudentBlock.as_stored`."""
        return {**self._others(), **{name: tensor.float() for name, tensor in self.rounded().items()}}

    def rounded(self) -> dict[str, Tensor]:
        """Return the factors with their adapters, as they would be stored."""
        with torch.no_grad():
            return {name: self._merged(name).to(self.dtypes[name]) for name in self.dtypes}

    def _others(self) -> dict[str, Tensor]:
        return {
            name: tensor.float() if name in self.of_module and tensor.is_floating_point() else tensor
            for name, tensor in self.fixed.items()
            if name not in self.dtypes
        }

    def _merged(self, name: str) -> Tensor:
        product = self.parameters[f"{name}.up"] @ self.parameters[f"{name}.down"]
        return self.fixed[name].float() + self.scale * product

    def _start(self, weight: Tensor, part: str) -> Tensor:
        if part == "up":
            return torch.zeros(len(weight), self.config.rank)
        down = torch.empty(self.config.rank, weight.shape[1])
        return nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=self.generator)
