"""A model that is run block by block: forwards with the hidden states kept, through its head, and backwards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from eckart.blocks.block_arguments import BlockArguments, arguments_by_shape, capture_arguments, run_head
from eckart.blocks.discovery import Block, LinearRef, find_block_list, hooks
from eckart.blocks.onload import OnloadedModule, WeightSource
from eckart.blocks.passes import ArgumentsByShape, BlockPass, HiddenStates, advance
from eckart.blocks.tensor_cache import ScratchSpace, TensorCache
from eckart.data.calibration import Calibration
from eckart.device import compute_dtype
from eckart.errors import NonFiniteError
from eckart.maths.labels import NEXT_TOKENS, LabelSource, label_loss

Observe = Callable[[LinearRef, Tensor, Tensor | None], None]
"""Is told, for each run of a linear, its inputs (tokens, n) and the loss's gradients at its outputs (tokens, m).

None for the gradients of a linear whose output goes nowhere.
"""


@dataclass
class BlockwiseModel:
    """A model whose blocks are run one at a time, and the tokens that it is run on.

    What compresses, measures, trains or times a model does it through this object: it knows where the tensors are,
    how the blocks are called, and where hidden states are kept.

    Attributes:
        model: in evaluation mode.
        blocks: of it.
        weights: where its tensors are.
        device: where blocks are run.
        scratch: where hidden states live.
        calibration: the tokens; None if the model is not run.
        arguments: how each block is called, by (batch, length); known once :meth:`enter` was called.
    """

    model: PreTrainedModel
    blocks: Sequence[Block]
    weights: WeightSource
    device: torch.device
    scratch: ScratchSpace
    calibration: Calibration | None = None
    arguments: list[ArgumentsByShape] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.modules: nn.ModuleList = find_block_list(self.model)[1]
        self.dtype: torch.dtype = self.model.dtype  # read now: it is another one while the model is onloaded

    @property
    def tokens(self) -> Tensor:
        """The calibration tokens, (samples, length) int64."""
        return self._known.tokens

    @property
    def seed(self) -> int:
        """The seed of the calibration."""
        return self._known.seed

    @property
    def _known(self) -> Calibration:
        assert self.calibration is not None
        return self.calibration

    @property
    def compute(self) -> torch.dtype:
        """The dtype of matrix products where the blocks are run."""
        return compute_dtype(self.dtype, self.device)

    def batches(self) -> Iterator[Tensor]:
        """Yield the calibration tokens, (batch, length) at a time."""
        return self._known.batches()

    def cropped(self, samples: int | None, length: int | None) -> BlockwiseModel:
        """Return the same model with only the first calibration samples, and the first tokens of each."""
        return replace(self, calibration=replace(self._known, tokens=self.tokens[:samples, :length]))

    def cache(self, name: str, number: int) -> TensorCache:
        """Return an empty cache for hidden states in front of block ``number``, in the model's dtype."""
        return self.scratch.cache(f"{name}-{number:05d}", self.dtype)

    def onload(self, index: int) -> AbstractContextManager[OnloadedModule]:
        """Give block ``index`` with its tensors on the device, and take them back at the end."""
        return self.weights.onload(self.blocks[index].module, self.device)

    def block_pass(self, index: int) -> BlockPass:
        """Return how block ``index``, which is onloaded, is run over hidden states."""
        return BlockPass(self.blocks[index].module, self.arguments[index], self.device)

    @contextmanager
    def entrance(self) -> Iterator[Callable[[Tensor], tuple[Tensor, list[BlockArguments]]]]:
        """Give a function of tokens (batch, length): the hidden states in front of block 0, and how blocks are called.

        All that is in front of the blocks is onloaded, and block 0 itself.
        """
        with self.weights.onload(self.model, self.device, (*self.modules[1:], self.model.get_output_embeddings())):
            yield lambda tokens: capture_arguments(self.model, self.modules, tokens.to(self.device))

    def arguments_for(self, batch_sizes: Collection[int], length: int) -> list[ArgumentsByShape]:
        """Return how each block is called for batches of some sizes; inside of :meth:`entrance`."""
        return list(arguments_by_shape(self.model, self.modules, batch_sizes, length, self.device))

    def enter(self) -> HiddenStates:
        """Return the hidden states in front of block 0, and find out how the blocks are called."""
        batches = list(self.batches())
        stream = self.cache("measured", 0)
        with self.entrance() as front:
            self.arguments = self.arguments_for({len(batch) for batch in batches}, self.tokens.shape[1])
            for batch in batches:
                stream.append(front(batch)[0])
        return stream

    def advance(self, index: int, stream: HiddenStates, name: str = "measured") -> TensorCache:
        """Return the hidden states behind block ``index``, which is onloaded, from those in front of it."""
        behind = self.cache(name, index + 1)
        advance(self.block_pass(index), stream, behind)
        return behind

    def forward(self) -> list[HiddenStates]:
        """Return the hidden states in front of each block, and those behind the last."""
        streams = [self.enter()]
        for index in range(len(self.blocks)):
            with self.onload(index):
                streams.append(self.advance(index, streams[-1]))
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
        self, behind: HiddenStates, source: LabelSource = NEXT_TOKENS, samples: int | None = None, *, name: str = ""
    ) -> tuple[HiddenStates, int]:
        """Return the gradient of the summed loss at the hidden states behind the last block, and the tokens summed.

        Args:
            behind: the hidden states there.
            source: of the labels.
            samples: only the first ones count; the gradient of the others is zero. None for all.
            name: of the gradient, if there are several at a time.

        Raises:
            NonFiniteError: the loss or its gradient is NaN or infinite.
        """
        generator = torch.Generator().manual_seed(self.seed)
        gradient = self.scratch.cache(_name(name, len(self.blocks)), torch.float32)
        left = len(self.tokens) if samples is None else samples
        count = 0
        with self.head() as logits:
            for batch, hidden in zip(self.batches(), behind, strict=True):
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
                    loss, predicted = label_loss(found, tokens, source, generator)
                    parts.append(torch.autograd.grad(loss, leaf)[0].float())
                    count += predicted
                    if not torch.isfinite(parts[-1]).all():
                        raise NonFiniteError("The gradient of the loss is NaN or infinite on the calibration tokens.")
                gradient.append(torch.cat(parts))
        return gradient, count

    def mean_losses(self, streams: Sequence[HiddenStates]) -> list[float]:
        """Return the mean next-token loss, in nats, of each of several hidden states behind the last block."""
        losses = []
        with self.head() as logits, torch.no_grad():
            for stream in streams:
                total, count = 0.0, 0
                for batch, hidden in zip(self.batches(), stream, strict=True):
                    for row in range(len(batch)):
                        tokens = batch[row : row + 1].to(self.device)
                        found = logits(tokens, hidden[row : row + 1].to(self.device, self.model.dtype))
                        loss, predicted = label_loss(found, tokens)
                        total, count = total + float(loss), count + predicted
                losses.append(total / count)
        return losses

    def backward(
        self, index: int, stream: HiddenStates, gradient: HiddenStates, name: str, observe: Observe
    ) -> HiddenStates:
        """Return the gradient in front of a block, which is onloaded, from the one behind it.

        Args:
            index: of the block.
            stream: the hidden states in front of it; its activations are computed again.
            gradient: of the summed loss behind it; is used up.
            name: of the gradient, if there are several at a time.
            observe: is told the inputs and the output gradients of its linears.

        Raises:
            NonFiniteError: a gradient is NaN or infinite; names the block.
        """
        block = self.blocks[index]
        front = self.scratch.cache(_name(name, index), torch.float32)
        passes = self.block_pass(index).over(stream)
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
