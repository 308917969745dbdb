r"""Distillation of the whole model with one block at work at a time.

With the hidden states behind the last block h in the original model and h' in the compressed one, and the model's own
head f behind both, all blocks are trained to

    minimise   mean over tokens of KL( softmax f(h) || softmax f(h') ).

A step runs the blocks forwards over its sequences, and then backwards, each taking its optimiser step as soon as its
gradients are there. What the original model computes is known: only h is kept, which is as small as hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from eckart.blocks.block_arguments import BlockArguments
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.passes import ArgumentsByShape, HiddenStates, gather
from eckart.compression.distil.student import StudentBlock
from eckart.device import autocast

Logits = Callable[[Tensor, Tensor], Tensor]
"""Gives the logits for tokens (batch, length) and the hidden states behind the last block."""


@dataclass
class Student:
    """The compressed model in training.

    Attributes:
        model: gives the tokens, and how each block is called.
        blocks: in order.
        inputs: hidden states in front of the first block.
        desired: those behind the last block of the original model.
        logits: the model's head.
        recompute: whether to compute activations twice instead of holding them.
    """

    model: BlockwiseModel
    blocks: Sequence[StudentBlock]
    inputs: HiddenStates
    desired: HiddenStates
    logits: Logits
    recompute: bool

    @property
    def arguments(self) -> Sequence[ArgumentsByShape]:
        """How the model calls each block."""
        return self.model.arguments

    @property
    def at_once(self) -> int:
        """How many sequences are run through a block at once."""
        return int(self.inputs[0].shape[0])

    def step(self, batch: Tensor, learning_rate: float) -> float:
        """Take one optimiser step on the sequences ``batch``, and return the sum of their losses before it."""
        parts = torch.split(batch, self.at_once)
        hidden = [gather(self.inputs, part, self.model.device).float() for part in parts]
        held: list[list[tuple[Tensor, Tensor | None]]] = []
        for block, arguments in zip(self.blocks, self.arguments, strict=True):
            runs = list[tuple[Tensor, Tensor | None]]()
            with block.used(), torch.set_grad_enabled(not self.recompute):
                for leaf in hidden:
                    leaf.requires_grad_(True)
                    runs.append((leaf, self._run(block.tensors, block, arguments, leaf)))
            hidden = [output.detach() for _, output in runs if output is not None]
            held.append([(leaf, None) for leaf, _ in runs] if self.recompute else runs)
        found = [self._loss_and_gradient(part, leaf, len(batch)) for part, leaf in zip(parts, hidden, strict=True)]
        gradients = [gradient for _, gradient in found]
        for block, arguments in zip(reversed(self.blocks), reversed(self.arguments), strict=True):
            runs = held.pop()
            with block.used():
                for index, (leaf, output) in enumerate(runs):
                    if output is None:
                        output = self._run(block.tensors, block, arguments, leaf)
                    torch.autograd.backward(output, gradients[index])
                    assert leaf.grad is not None
                    gradients[index] = leaf.grad
                block.step(learning_rate)
        return sum(loss for loss, _ in found)

    def unit(self, sequences: Tensor) -> float:
        """Return the number of tokens."""
        return len(sequences) * self.model.tokens.shape[1]

    def loss(self, sequences: Tensor) -> float:
        """Return the sum of the losses of sequences with the present weights as they would be stored."""
        parts = torch.split(sequences, self.at_once)
        hidden = [gather(self.inputs, part, self.model.device).float() for part in parts]
        with torch.no_grad():
            for block, arguments in zip(self.blocks, self.arguments, strict=True):
                with block.used():
                    rounded = {name: tensor.float() for name, tensor in block.rounded().items()}
                    hidden = [self._run({**block.fixed, **rounded}, block, arguments, leaf) for leaf in hidden]
            return sum(
                float(self._divergence(index, leaf[row : row + 1]))
                for part, leaf in zip(parts, hidden, strict=True)
                for row, index in enumerate(part.tolist())
            )

    def is_finite(self) -> bool:
        """Return whether no weight is NaN or infinite as it would be stored."""
        for block in self.blocks:
            with block.used():
                if not all(bool(torch.isfinite(tensor).all()) for tensor in block.rounded().values()):
                    return False
        return True

    def snapshot(self) -> None:
        """Remember the present state."""
        for block in self.blocks:
            with block.used():
                block.snapshot()

    def _run(
        self, tensors: Mapping[str, Tensor], block: StudentBlock, arguments: ArgumentsByShape, hidden: Tensor
    ) -> Tensor:
        call: BlockArguments = arguments[hidden.shape[:2]]

        def run(*args: object, **kwargs: object) -> object:
            return functional_call(block.module, dict(tensors), args, kwargs)

        with autocast(self.model.device, self.model.compute):
            # A copy, since a block may write into what it is given, which a leaf forbids.
            return call(run, hidden.clone()).float()

    def _loss_and_gradient(self, part: Tensor, hidden: Tensor, sequences: int) -> tuple[float, Tensor]:
        """Return the summed loss of a part of a batch, and the mean loss's gradient behind the last block."""
        total, gradients = 0.0, []
        for row, index in enumerate(part.tolist()):  # one sequence at a time: logits are large
            leaf = hidden[row : row + 1].detach().requires_grad_(True)
            loss = self._divergence(index, leaf)
            gradients.append(torch.autograd.grad(loss / (sequences * self.model.tokens.shape[1]), leaf)[0])
            total += float(loss.detach())
        return total, torch.cat(gradients)

    def _divergence(self, index: int, hidden: Tensor) -> Tensor:
        """Return the KL divergence of a sequence, summed over its tokens."""
        tokens = self.model.tokens[index : index + 1].to(self.model.device)
        target = gather(self.desired, torch.tensor([index]), self.model.device)
        with torch.no_grad():
            expected = self.logits(tokens, target.to(self.model.compute)).float().log_softmax(-1)
        found = self.logits(tokens, hidden.to(self.model.compute)).float().log_softmax(-1)
        return functional.kl_div(found, expected, reduction="sum", log_target=True)
