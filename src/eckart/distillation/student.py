"""The blocks of the compressed model while all of them are trained: float32 weights and optimisers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from eckart.training.plan import TrainingPlan


class StudentBlock:
    """One block: what it computes with, its optimiser, and the best state so far.

    Between uses all of it is where it is used, or in a file.

    Args:
        module: the block; only its structure counts, its own tensors may be anywhere.
        stored: all its tensors by name, in the dtypes that they are saved in.
        plan: of the training.
        device: where the block is used.
        file: that holds what is trained between uses; None to keep it on the device.
    """

    def __init__(
        self,
        module: nn.Module,
        stored: Mapping[str, Tensor],
        plan: TrainingPlan,
        device: torch.device,
        file: Path | None = None,
    ) -> None:
        self.module, self.plan, self.device, self.file = module, plan, device, file
        trained = {name for name, _ in module.named_parameters()} & stored.keys()
        self.dtypes = {name: stored[name].dtype for name in trained}
        self.fixed = {name: tensor.to(device) for name, tensor in stored.items() if name not in trained}
        self.parameters = {
            name: nn.Parameter(stored[name].to(device, torch.float32, copy=True)) for name in sorted(trained)
        }
        self.optimiser = plan.optimiser(list(self.parameters.values()))
        self.kept: dict[str, Tensor] = {}
        if file is not None:
            self._park(file)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Have weights and optimiser on the device inside."""
        if self.file is None:
            yield
            return
        held = torch.load(self.file, map_location=self.device, weights_only=True)
        for name, parameter in self.parameters.items():
            parameter.data = held["weights"][name]
        self.optimiser.load_state_dict(held["optimiser"])
        yield
        self._park(self.file)

    def _park(self, file: Path) -> None:
        weights = {name: parameter.data for name, parameter in self.parameters.items()}
        torch.save({"weights": weights, "optimiser": self.optimiser.state_dict()}, file)
        for parameter in self.parameters.values():
            parameter.data = torch.empty(0, device=self.device)
        for state in self.optimiser.state.values():
            state.clear()

    def step(self, learning_rate: float) -> None:
        """Take an optimiser step along the gradients that there are."""
        self.plan.step(self.optimiser, learning_rate)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors that the block computes with, by name: those that are trained in float32."""
        return {**self.fixed, **self.parameters}

    def rounded(self) -> dict[str, Tensor]:
        """Return what is trained as it would be stored."""
        return {name: p.detach().to(self.dtypes[name], copy=True) for name, p in self.parameters.items()}

    def keep(self) -> None:
        """Remember the present state as it would be stored."""
        self.kept = {name: tensor.cpu() for name, tensor in self.rounded().items()}

    def result(self) -> dict[str, Tensor]:
        """Return what was remembered last, and what was not trained: all tensors of the block, on the host."""
        return {**{name: tensor.cpu() for name, tensor in self.fixed.items()}, **self.kept}
