"""Training of one block against the original one: batches, losses, steps. What to do with them is decided elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.func import functional_call

from eckart import processes
from eckart.blocks.passes import BlockPass, HiddenStates, gather
from eckart.device import autocast
from eckart.errors import UnsupportedModelError
from eckart.methods.training.config import TrainingConfig
from eckart.methods.training.gradients import add_gradients


@dataclass(frozen=True)
class Sequences:
    """Calibration sequences around a block, one at a time.

    Attributes:
        inputs: hidden states in front of the block, of the compressed model.
        original_inputs: the same, of the original model.
        targets: hidden states behind the block, of the original model.
        device: where batches are put together.
        batch: sequences in a batch of those.
        count: of sequences, those that are run in other processes too.
        places: gives the places among the sequences here of some by their numbers; others are left out.
    """

    inputs: HiddenStates
    original_inputs: HiddenStates
    targets: HiddenStates
    device: torch.device
    batch: int
    count: int
    places: Callable[[Tensor], Tensor] = lambda numbers: numbers

    def __len__(self) -> int:
        return self.count

    def parts(self, numbers: Tensor) -> tuple[Tensor, ...]:
        """Return the places of sequences that are run here, so many at a time as are run at once."""
        places = self.places(numbers)
        return torch.split(places, self.batch) if len(places) else ()

    @cached_property
    def sizes(self) -> Tensor:
        """Numbers in the target of each sequence, (count,) int64, of all processes."""
        found = torch.zeros(self.count, dtype=torch.int64)
        for number in range(self.count):
            for place in self.places(torch.tensor([number])).tolist():
                target = self.targets[place // self.batch]
                found[number] = target.numel() if self.batch == 1 else target[0].numel()
        processes.add([found])
        return found

    def gather(self, stream: HiddenStates, indices: Tensor) -> Tensor:
        """Return the sequences at some places of a stream, (sequences, length, width) float32 on the device."""
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
        error, elements = 0.0, int(self.sequences.sizes[batch].sum())
        for part in self.sequences.parts(batch):
            squares = self._squared_error(part, self.block)
            (squares / elements).backward()  # type: ignore[no-untyped-call]
            error += float(squares.detach())
        error = add_gradients(self.parameters, error)
        self.config.step(self.optimiser, learning_rate)
        return error

    def loss(self, sequences: Tensor) -> float:
        """Return the squared error of the block with its weights as they would be stored."""
        state = {name: tensor.float() for name, tensor in self._rounded().items()}

        def block(*args: object, **kwargs: object) -> object:
            return functional_call(self.block, state, args, kwargs)

        with torch.no_grad():
            error = sum(float(self._squared_error(part, block)) for part in self.sequences.parts(sequences))
        return processes.total(error)[0]

    def unit(self, sequences: Tensor) -> float:
        """Return ``||B(x) - x||^2`` over sequences of the original stream: what the block changes."""
        places = self.sequences.places(sequences).tolist()
        for index in places:
            if index not in self.changes:
                one = torch.tensor([index])
                target = self.sequences.gather(self.sequences.targets, one)
                front = self.sequences.gather(self.sequences.original_inputs, one)
                difference = target - front if front.shape == target.shape else target
                self.changes[index] = float(self._weighed(difference).double().square().sum())
        return processes.total(sum(self.changes[index] for index in places))[0] or 1.0

    def is_finite(self) -> bool:
        """Return whether no weight is NaN or infinite."""
        finite = all(bool(torch.isfinite(tensor).all()) for tensor in self._rounded().values())
        return processes.total(finite)[0] == processes.size()

    def snapshot(self) -> None:
        """Remember the present weights as they would be stored."""
        self.best = self._rounded()

    def finish(self) -> None:
        """Leave the block with the weights that were remembered last, otherwise as it came."""
        self.best = processes.give_tensors(self.best)
        for name, parameter in self.block.named_parameters():
            dtype, requires_grad = self.before[name]
            parameter.grad = None
            parameter.data = self.best[name].to(parameter.device, dtype)
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
