"""The blocks of the compressed model while all of them are trained: float32 weights and optimisers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eckart.methods.training.config import TrainingConfig

WEIGHT = "weight"  # beside what the optimiser calls its own tensors of a parameter


class StudentBlock:
    """One block: what it computes with, its optimiser, and the best state so far.

    Between uses all of it is where it is used, or in files.

    Args:
        module: the block; only its structure counts, its own tensors may be anywhere.
        stored: all its tensors by name, in the dtypes that they are saved in.
        config: of the training.
        device: where the block is used.
        file: that holds the block between uses, and beside it one for the best state; None to keep both in memory.
        fixed: names of parameters that are not trained.
    """

    def __init__(
        self,
        module: nn.Module,
        stored: Mapping[str, Tensor],
        config: TrainingConfig,
        device: torch.device,
        file: Path | None = None,
        fixed: Collection[str] = (),
    ) -> None:
        self.module, self.config, self.device, self.file = module, config, device, file
        self.set_up(stored, fixed)
        # A block that has nothing to train has an optimiser all the same, which wants something.
        self.optimiser = config.optimiser(list(self.parameters.values()) or [nn.Parameter(torch.zeros(0))])
        self.best: dict[str, Tensor] = {}
        if file is not None:
            self._park(file)

    def set_up(self, stored: Mapping[str, Tensor], fixed: Collection[str]) -> None:
        """Take what is trained of a block, and what is not; arguments as for the class."""
        device = self.device
        trained = ({name for name, _ in self.module.named_parameters()} & stored.keys()) - set(fixed)
        self.dtypes = {name: stored[name].dtype for name in trained}
        self.fixed = {name: tensor.to(device) for name, tensor in stored.items() if name not in trained}
        self.parameters = {
            name: nn.Parameter(stored[name].to(device, torch.float32, copy=True)) for name in sorted(trained)
        }

    @contextmanager
    def used(self) -> Iterator[None]:
        """Have weights and optimiser on the device inside."""
        if self.file is None:
            yield
            return
        held = load_file(self.file, device=str(self.device))
        for number, parameter in enumerate(self.parameters.values()):
            parts = {key.split(".", 1)[1]: held.pop(key) for key in list(held) if key.startswith(f"{number}.")}
            parameter.data = parts.pop(WEIGHT)
            self.optimiser.state[parameter].update(parts)
        self.fixed = {key.split(".", 1)[1]: tensor for key, tensor in held.items()}
        yield
        self._park(self.file)

    def _park(self, file: Path) -> None:
        held = {f"fixed.{name}": tensor for name, tensor in self.fixed.items()}
        for number, parameter in enumerate(self.parameters.values()):
            parts = {WEIGHT: parameter.data, **self.optimiser.state[parameter]}
            held |= {f"{number}.{name}": tensor.contiguous() for name, tensor in parts.items()}
        save_file(held, file)
        self.fixed = {}
        for parameter in self.parameters.values():
            parameter.data = torch.empty(0, device=self.device)
            self.optimiser.state[parameter].clear()

    def step(self, learning_rate: float) -> None:
        """Take an optimiser step along the gradients that there are."""
        self.config.step(self.optimiser, learning_rate)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors that the block computes with, by name: those that are trained in float32."""
        return {**self.fixed, **self.parameters}

    @property
    def as_stored(self) -> dict[str, Tensor]:
        """All tensors by name, in float32, those that are trained with the numbers that would be stored."""
        return {**self.fixed, **{name: tensor.float() for name, tensor in self.rounded().items()}}

    def rounded(self) -> dict[str, Tensor]:
        """Return what is trained as it would be stored."""
        return {name: p.detach().to(self.dtypes[name], copy=True) for name, p in self.parameters.items()}

    def snapshot(self) -> None:
        """Remember the present state as it would be stored, with what is not trained."""
        best = {name: tensor.cpu().contiguous() for name, tensor in {**self.fixed, **self.rounded()}.items()}
        if self.file is None:
            self.best = best
        else:
            save_file(best, self._best(self.file))

    def result(self) -> dict[str, Tensor]:
        """Return what was remembered last, all tensors of the block, on the host; its files are deleted."""
        if self.file is None:
            return self.best
        best = load_file(self._best(self.file))
        self.file.unlink()
        self._best(self.file).unlink()
        return best

    def _best(self, file: Path) -> Path:
        return file.with_suffix(".best")
