"""Training of one block against the original one: batches, losses, steps. What to do with them is decided elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from eckart.calls import BlockCall
from eckart.device import autocast
from eckart.statistics import Calls, Stream


@dataclass(frozen=True)
class Sequences:
    """Calibration sequences around a block, one at a time.

    Attributes:
        inputs: the stream in front of the block, of the compressed model.
        original_inputs: the same, of the original model.
        targets: the stream behind the block, of the original model.
        device: where batches are put together.
    """

    inputs: Stream
    original_inputs: Stream
    targets: Stream
    device: torch.device

    def __len__(self) -> int:
        return sum(batch.shape[0] for batch in self.inputs)

    @property
    def batch(self) -> int:
        """How many sequences are run through a block at once."""
        return int(self.inputs[0].shape[0])

    def gather(self, stream: Stream, indices: Tensor) -> Tensor:
        """Return the sequences ``indices`` of a stream, (sequences, length, width) float32 on the device."""
        rows = [stream[index // self.batch][index % self.batch] for index in indices.tolist()]
        return torch.stack(rows).to(self.device).float()


class Training:
    """The state of one block's training: float32 weights and the optimiser.

    Args:
        optimiser: makes one from the block's parameters.
        gradient_norm: gradients are scaled down to it.
        block: compressed, on its device; its parameters become float32 until :meth:`finish`.
        calls: how the model calls it, by (batch, length).
        sequences: inputs and targets.
        stored: dtype by parameter name, that each is saved in.
        compute: dtype of matrix products.
    """

    def __init__(
        self,
        optimiser: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        gradient_norm: float,
        block: nn.Module,
        calls: Calls,
        sequences: Sequences,
        stored: Mapping[str, torch.dtype],
        compute: torch.dtype,
    ) -> None:
        self.gradient_norm, self.block, self.calls, self.sequences = gradient_norm, block, calls, sequences
        self.stored, self.compute = stored, compute
        self.lent = {name: (p.dtype, p.requires_grad) for name, p in block.named_parameters()}
        for parameter in block.parameters():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
        self.parameters = list(block.parameters())
        self.optimiser = optimiser(self.parameters)
        self.changes: dict[int, float] = {}

    def step(self, batch: Tensor, learning_rate: float) -> float:
        """Take one optimiser step on the sequences ``batch``, and return their squared error before it."""
        error = 0.0
        for part in torch.split(batch, self.sequences.batch):
            squares = self._squared_error(part, self.block)
            (squares / self._elements(batch)).backward()  # type: ignore[no-untyped-call]
            error += float(squares.detach())
        nn.utils.clip_grad_norm_(self.parameters, self.gradient_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.optimiser.step()
        self.optimiser.zero_grad()
        return error

    def loss(self, indices: Tensor, state: Mapping[str, Tensor]) -> float | None:
        """Return the squared error of the block with the weights ``state``, relative to what the block changes.

        None if there are no sequences.
        """
        if not len(indices):
            return None

        def block(*args: object, **kwargs: object) -> object:
            return functional_call(self.block, {name: t.float() for name, t in state.items()}, args, kwargs)

        with torch.no_grad():
            errors = [float(self._squared_error(part, block)) for part in torch.split(indices, self.sequences.batch)]
        return sum(errors) / self.change(indices)

    def change(self, indices: Tensor) -> float:
        """Return ``||B(x) - x||^2`` over sequences of the original stream."""
        for index in indices.tolist():
            if index not in self.changes:
                one = torch.tensor([index])
                target = self.sequences.gather(self.sequences.targets, one)
                difference = target - self.sequences.gather(self.sequences.original_inputs, one)
                self.changes[index] = float(difference.double().square().sum())
        return sum(self.changes[index] for index in indices.tolist()) or 1.0

    def rounded(self) -> dict[str, Tensor]:
        """Return the weights as they would be stored."""
        return {n: p.detach().to(self.stored[n], copy=True) for n, p in self.block.named_parameters()}

    def finish(self, state: Mapping[str, Tensor]) -> None:
        """Leave the block with the weights ``state``, otherwise as it came."""
        for name, parameter in self.block.named_parameters():
            dtype, requires_grad = self.lent[name]
            parameter.grad = None
            parameter.data = state[name].to(dtype)
            parameter.requires_grad_(requires_grad)

    def _squared_error(self, indices: Tensor, block: Callable[..., object]) -> Tensor:
        inputs = self.sequences.gather(self.sequences.inputs, indices)
        call: BlockCall = self.calls[inputs.shape[:2]]
        with autocast(self.sequences.device, self.compute):
            output = call(block, inputs)
        return (output.float() - self.sequences.gather(self.sequences.targets, indices)).square().sum()

    def _elements(self, indices: Tensor) -> int:
        return len(indices) * self.sequences.inputs[0][0].numel()


def is_finite(state: Mapping[str, Tensor]) -> bool:
    """Return whether no weight is NaN or infinite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in state.values())
