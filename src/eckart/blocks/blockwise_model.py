"""The original model, run block by block: forwards with the streams kept, through its head, and backwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from eckart.blocks.block_arguments import BlockArguments, arguments_by_shape, capture_arguments, run_head
from eckart.blocks.discovery import Block, LinearRef, find_block_list, hooks
from eckart.blocks.onload import WeightSource
from eckart.blocks.passes import ArgumentsByShape, HiddenStates, advance, on_device
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.data.calibration import Calibration
from eckart.errors import NonFiniteError
from eckart.methods.metric import Fisher, label_loss

Observe = Callable[[LinearRef, Tensor, Tensor | None], None]
"""Is told, for each run of a linear, its inputs (tokens, n) and the loss's gradients at its outputs (tokens, m).

None for the gradients of a linear whose output goes nowhere.
"""


@dataclass
class BlockwiseModel:
    """A model whose blocks are run one at a time.

    Attributes:
        model: in evaluation mode.
        blocks: of it.
        weights: where its tensors are.
        device: where blocks are run.
        scratch: where streams live.
        calibration: the tokens; None if the model is not run.
    """

    model: PreTrainedModel
    blocks: Sequence[Block]
    weights: WeightSource
    device: torch.device
    scratch: ScratchSpace
    calibration: Calibration | None

    def __post_init__(self) -> None:
        self.modules: nn.ModuleList = find_block_list(self.model)[1]
        self.dtype: torch.dtype = self.model.dtype  # read now: it is another one while the model is lent
        self.arguments: list[ArgumentsByShape] = []

    @property
    def _calibration(self) -> Calibration:
        assert self.calibration is not None
        return self.calibration

    @property
    def tokens(self) -> Tensor:
        """The calibration tokens, (samples, length) int64."""
        return self._calibration.tokens

    def batches(self) -> Iterator[Tensor]:
        """Yield the calibration tokens, (batch, length) at a time."""
        return self._calibration.batches()

    def cropped(self, samples: int | None, length: int | None) -> BlockwiseModel:
        """Return the same model with only the first calibration samples, and the first tokens of each."""
        tokens = self.tokens[:samples, :length]
        return replace(self, calibration=replace(self._calibration, tokens=tokens))

    def enter(self) -> HiddenStates:
        """Return the stream in front of block 0, and find out how the blocks are called."""
        length = self.tokens.shape[1]
        batches = list(self._calibration.batches())
        stream = self.scratch.cache("profile-00000", self.dtype)
        with self.weights.onload(self.model, self.device, (*self.modules[1:], self.model.get_output_embeddings())):
            sizes = {len(batch) for batch in batches}
            self.arguments = list(arguments_by_shape(self.model, self.modules, sizes, length, self.device))
            for batch in batches:
                stream.append(capture_arguments(self.model, self.modules, batch.to(self.device))[0])
        return stream

    def forward(self) -> list[HiddenStates]:
        """Return the streams in front of each block, and the one behind the last."""
        streams = [self.enter()]
        for index, block in enumerate(self.blocks):
            behind = self.scratch.cache(f"profile-{index + 1:05d}", self.dtype)
            with self.weights.onload(block.module, self.device):
                advance(block.module, self.arguments[index], streams[-1], self.device, behind)
            streams.append(behind)
        return streams

    @contextmanager
    def head(self) -> Iterator[Callable[[Tensor, Tensor], Tensor]]:
        """Give a function of tokens (batch, length) and hidden states behind the last block that returns the logits.

        No block is run: how they are called, and return their outputs, must be known.
        """
        with self.weights.onload(self.model, self.device, skip=tuple(self.modules)):
            yield self._logits

    def _logits(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        call = next(iter(self.arguments[-1].values()))
        logits: Tensor = run_head(self.model, self.modules, call, tokens, hidden).logits
        return logits

    def loss_gradient(
        self, behind: HiddenStates, metric: Fisher | None, samples: int | None = None, *, name: str = ""
    ) -> tuple[HiddenStates, int]:
        """Return the gradient of the summed loss at the hidden states behind the last block, and the tokens summed.

        Args:
            behind: the stream there.
            metric: says where labels come from; None for the text's next tokens.
            samples: only the first ones count; the gradient of the others is zero. None for all.
            name: of the gradient, if there are several at a time.

        Raises:
            NonFiniteError: the loss or its gradient is NaN or infinite.
        """
        generator = torch.Generator().manual_seed(self._calibration.seed)
        gradient = self.scratch.cache(_name(name, len(self.blocks)), torch.float32)
        left = len(self.tokens) if samples is None else samples
        count = 0
        with self.head() as logits:
            for batch, hidden in zip(self._calibration.batches(), behind, strict=True):
                parts = []
                for row in range(len(batch)):  # one sequence at a time: logits are large
                    leaf = hidden[row : row + 1].to(self.device, self.model.dtype, copy=True)
                    if left <= 0:
                        parts.append(torch.zeros_like(leaf, dtype=torch.float32))
                        continue
                    left -= 1
                    leaf.requires_grad_(True)
                    tokens = batch[row : row + 1].to(self.device)
                    found = logits(tokens, leaf)
                    if not torch.isfinite(found).all():
                        raise NonFiniteError(
                            "The gradient of the loss is NaN or infinite on the calibration tokens: so are the logits."
                        )
                    loss, predicted = label_loss(found, tokens, metric, generator)
                    parts.append(torch.autograd.grad(loss, leaf)[0].float())
                    count += predicted
                    if not torch.isfinite(parts[-1]).all():
                        raise NonFiniteError("The gradient of the loss is NaN or infinite on the calibration tokens.")
                gradient.append(torch.cat(parts))
        return gradient, count

    def mean_losses(self, streams: Sequence[HiddenStates]) -> list[float]:
        """Return the mean next-token loss, in nats, of each of several streams behind the last block."""
        losses = []
        with self.head() as logits, torch.no_grad():
            for stream in streams:
                total, count = 0.0, 0
                for batch, hidden in zip(self._calibration.batches(), stream, strict=True):
                    for row in range(len(batch)):
                        tokens = batch[row : row + 1].to(self.device)
                        found = logits(tokens, hidden[row : row + 1].to(self.device, self.model.dtype))
                        loss, predicted = label_loss(found, tokens, None, torch.Generator())
                        total, count = total + float(loss), count + predicted
                losses.append(total / count)
        return losses

    def backward(
        self, index: int, stream: HiddenStates, gradient: HiddenStates, name: str, observe: Observe
    ) -> HiddenStates:
        """Return the gradient in front of a block, which is lent, from the one behind it.

        Args:
            index: of the block.
            stream: in front of it; its activations are computed again.
            gradient: of the summed loss behind it; is used up.
            name: of the gradient, if there are several at a time.
            observe: is told the inputs and the output gradients of its linears.

        Raises:
            NonFiniteError: a gradient is NaN or infinite; names the block.
        """
        block = self.blocks[index]
        front = self.scratch.cache(_name(name, index), torch.float32)
        passes = on_device(self.arguments[index], stream, self.device)
        for (call, hidden), behind in zip(passes, gradient, strict=True):
            found = backward_through(block, call, hidden, behind.to(self.device), observe)
            if not torch.isfinite(found).all():
                raise NonFiniteError(
                    f"The gradient of the loss in front of {block.path} is NaN or infinite on the calibration tokens."
                )
            front.append(found)
        gradient.delete()
        return front


def backward_through(block: Block, call: BlockArguments, hidden: Tensor, gradient: Tensor, observe: Observe) -> Tensor:
    """Return the gradient in front of a block from the one behind it, for one batch.

    Args:
        block: that is run again.
        call: how the model calls it.
        hidden: in front of it, (batch, length, width).
        gradient: behind it, of the same shape, float32.
        observe: is told the inputs and the output gradients of its linears.
    """
    runs: list[tuple[LinearRef, Tensor, Tensor]] = []

    def record(ref: LinearRef) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            runs.append((ref, args[0], output))

        return hook

    leaf = hidden.detach().requires_grad_(True)
    with hooks() as handles, torch.enable_grad():
        for ref in block.linears:
            handles.append(block.module.get_submodule(ref.name).register_forward_hook(record(ref)))
        # A copy, since a block may write into what it is given, which a leaf forbids.
        output = call(block.module, leaf.clone())
        # What a block runs without gradients has none.
        reached = [run[2] for run in runs if run[2].requires_grad]
        found = torch.autograd.grad(output, [leaf, *reached], gradient.to(output.dtype), allow_unused=True)
    at_outputs = iter(found[1:])
    for ref, inputs, outputs in runs:
        at_output = next(at_outputs) if outputs.requires_grad else None
        observe(ref, inputs.detach().flatten(0, -2), None if at_output is None else at_output.flatten(0, -2))
    return found[0].float() if found[0] is not None else torch.zeros_like(hidden, dtype=torch.float32)


def _name(name: str, index: int) -> str:
    return f"gradient-{name}-{index:05d}"
