"""Training of one block against the original one: batches, losses, steps. What to do with them is decided elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from eckart.blocks.passes import BlockPass, HiddenStates, gather
from eckart.device import autocast
from eckart.errors import UnsupportedModelError
from eckart.methods.training.config import TrainingConfig


@dataclass(frozen=True)
class Sequences:
    """Calibration sequences around a block, one at a time.

    Attributes:
        inputs: hidden states in front of the block, of the compressed model.
        original_inputs: the same, of the original model.
        targets: hidden states behind the block, of the original model.
        device: where batches are put together.
        batch: sequences in a batch of those.
        count: of sequences.
    """

    inputs: HiddenStates
    original_inputs: HiddenStates
    targets: HiddenStates
    device: torch.device
    batch: int
    count: int

    def __len__(self) -> int:
        return self.count

    def gather(self, stream: HiddenStates, indices: Tensor) -> Tensor:
        """Return the sequences ``indices`` of a stream, (sequences, length, width) float32 on the device."""
        return gather(stream, indices, self.batch, self.device).float()


class BlockTraining:
    """The state of one block's training: float32 weights and the optimiser.

    Args:
        config: of the training.
        run: the block, compressed and onloaded, and how the model calls it; its parameters become float32 until
            :meth:`finish`.
        sequences: inputs and targets.
        stored: dtype by parameter name, that each is saved in.
        compute: dtype of matrix products.
        root: of the metric of errors, (d, d); None for the identity.
    """

    def __init__(
        self,
        config: TrainingConfig,
        run: BlockPass,
        sequences: Sequences,
        stored: Mapping[str, torch.dtype],
        compute: torch.dtype,
        root: Tensor | None = None,
    ) -> None:
        self.config, self.block, self.arguments, self.sequences = config, run.module, run.arguments, sequences
        self.stored, self.compute = stored, compute
        # Of the size of the identity, so that gradients have the size that their bound is made for.
        self.root = (
            None if root is None else (root / root.square().sum(dim=1).mean().sqrt()).to(sequences.device).float()
        )
        self.before = {name: (p.dtype, p.requires_grad) for name, p in self.block.named_parameters()}
        for name, parameter in self.block.named_parameters():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(name not in run.fixed)
        self.parameters = [parameter for parameter in self.block.parameters() if parameter.requires_grad]
        self.optimiser = config.optimiser(self.parameters)
        self.best: dict[str, Tensor] = {}
        self.changes: dict[int, float] = {}

    def step(self, batch: Tensor, learning_rate: float) -> float:
        """Take one optimiser step on the sequences ``batch``, and return their squared error before it."""
        error = 0.0
        for part in torch.split(batch, self.sequences.batch):
            squares = self._squared_error(part, self.block)
            (squares / self._elements(batch)).backward()  # type: ignore[no-untyped-call]
            error += float(squares.detach())
        self.config.step(self.optimiser, learning_rate)
        return error

    def loss(self, sequences: Tensor) -> float:
        """Return the squared error of the block with its weights as they would be stored."""
        state = {name: tensor.float() for name, tensor in self._rounded().items()}

        def block(*args: object, **kwargs: object) -> object:
            return functional_call(self.block, state, args, kwargs)

        with torch.no_grad():
            return sum(float(self._squared_error(part, block)) for part in torch.split(sequences, self.sequences.batch))

    def unit(self, sequences: Tensor) -> float:
        """Return ``||B(x) - x||^2`` over sequences of the original stream: what the block changes."""
        for index in sequences.tolist():
            if index not in self.changes:
                one = torch.tensor([index])
                target = self.sequences.gather(self.sequences.targets, one)
                front = self.sequences.gather(self.sequences.original_inputs, one)
                difference = target - front if front.shape == target.shape else target
                self.changes[index] = float(self._weighed(difference).double().square().sum())
        return sum(self.changes[index] for index in sequences.tolist()) or 1.0

    def is_finite(self) -> bool:
        """Return whether no weight is NaN or infinite."""
        return all(bool(torch.isfinite(tensor).all()) for tensor in self._rounded().values())

    def snapshot(self) -> None:
        """Remember the present weights as they would be stored."""
        self.best = self._rounded()

    def finish(self) -> None:
        """Leave the block with the weights that were remembered last, otherwise as it came."""
        for name, parameter in self.block.named_parameters():
            dtype, requires_grad = self.before[name]
            parameter.grad = None
            parameter.data = self.best[name].to(dtype)
            parameter.requires_grad_(requires_grad)

    def _rounded(self) -> dict[str, Tensor]:
        return {n: p.detach().to(self.stored[n], copy=True) for n, p in self.block.named_parameters()}

    def _squared_error(self, indices: Tensor, block: Callable[..., object]) -> Tensor:
        inputs = self.sequences.gather(self.sequences.inputs, indices)
        call = self.arguments.of(inputs, int(indices[0]) if self.sequences.batch == 1 else None)
        with autocast(self.sequences.device, self.compute):
            output = call(block, inputs)
        targets = self.sequences.gather(self.sequences.targets, indices)
        check_alike(output, targets)
        return self._weighed(output.float() - targets).square().sum()

    def _weighed(self, errors: Tensor) -> Tensor:
        return errors if self.root is None else errors @ self.root

    def _elements(self, indices: Tensor) -> int:
        if self.sequences.batch == 1:
            return sum(self.sequences.targets[index].numel() for index in indices.tolist())
        return len(indices) * self.sequences.targets[0][0].numel()


def check_alike(output: Tensor, target: Tensor) -> None:
    """Raise if a compressed block gives another number of things than the original one, as where it says how long.

    Raises:
        UnsupportedModelError: says what to do instead.
    """
    if output.shape != target.shape:
        raise UnsupportedModelError(
            f"A block gives {tuple(output.shape)} numbers once it is compressed, and gave {tuple(target.shape)}: the "
            "two cannot be compared. Use a recipe without refinement (--set refinement=none)."
        )
