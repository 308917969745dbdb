"""Gradients of a model's loss with respect to numbers that change the outputs of its linears, block by block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eckart.blocks.backward import BackwardPass
from eckart.blocks.block import Block, LinearRef, hooks
from eckart.blocks.block_arguments import Inputs
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.errors import NonFiniteError


class OutputTraining(ABC):
    """A tensor a linear, and the gradient of the loss with respect to it.

    Attributes:
        original: the model, of which nothing is changed.
        linears: its linears.
        trained: the tensor of each, by path; what needs no gradient is not trained.
    """

    of_what: ClassVar[str]  # the tensors, in messages
    loss_name: ClassVar[str]

    original: BlockwiseModel
    linears: list[LinearRef]
    trained: dict[str, Tensor]

    @abstractmethod
    def byte_loss(self) -> Tensor:
        """Return the part of the loss that does not look at data."""

    @abstractmethod
    def batch_loss(self, output: Any, expected: Any, inputs: Inputs) -> Tensor:
        """Return the loss of one batch.

        Args:
            output: what the model returned, with its linears' outputs changed.
            expected: what it returns as it is; None if that was not asked for.
            inputs: of the batch.
        """

    @abstractmethod
    def changed(self, ref: LinearRef, linear: nn.Module, output: Tensor) -> Tensor:
        """Return the changed output, (..., m), of a linear."""

    def accumulate(self, batch: BlockwiseModel, ends: Mapping[int, Tensor] | None = None) -> None:
        """Add the gradient of the loss on one batch to the tensors.

        Args:
            batch: the model, with its samples.
            ends: what the blocks that the head looks at give in the original model, if the loss looks at its outputs.

        Raises:
            NonFiniteError: a gradient is NaN or infinite.
        """
        self.byte_loss().backward()  # type: ignore[no-untyped-call]
        (inputs,) = batch.batches()
        streams = batch.forward(self._changing)
        gradient = BackwardPass(batch, streams)
        with batch.head() as head:

            def leaf(tensor: Tensor) -> Tensor:
                return tensor.to(batch.device, batch.model.dtype, copy=True)

            leaves = {n: leaf(stream[0]).requires_grad_(True) for n, stream in batch.ends_of(streams.behinds).items()}
            expected = None
            if ends is not None:
                with torch.no_grad():
                    expected = head(inputs, {n: leaf(tensor) for n, tensor in ends.items()})
            with torch.enable_grad():
                loss = self.batch_loss(head(inputs, leaves), expected, inputs)
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        if not all(torch.isfinite(part).all() for part in found if part is not None):
            raise NonFiniteError(
                f"The {self.loss_name} of truncated outputs is {float(loss.detach())}: it gives no gradient."
            )
        gradient.add_behind(
            {n: torch.zeros_like(t) if g is None else g for (n, t), g in zip(leaves.items(), found, strict=True)}
        )
        for index in reversed(range(len(batch.blocks))):
            self._backward(batch, index, gradient)
        streams.delete_all()

    def _backward(self, batch: BlockwiseModel, index: int, gradient: BackwardPass) -> None:
        block = batch.blocks[index]
        trained = [tensor for ref in block.linears if (tensor := self.trained[ref.path]).requires_grad]
        with batch.onload(index), self._changing(block):
            found = gradient.step(index, more=trained)
        for tensor, change in zip(trained, found, strict=True):
            if change is not None:
                assert tensor.grad is not None
                tensor.grad += change.to(tensor.device)
        if not all(torch.isfinite(change).all() for change in found if change is not None):
            raise NonFiniteError(f"The gradient of the {self.of_what} of {block.path} is NaN or infinite.")

    @contextmanager
    def _changing(self, block: Block) -> Iterator[None]:
        """Change the outputs of the linears of a block."""

        def change(ref: LinearRef) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
            def hook(linear: nn.Module, _: tuple[Any, ...], output: Tensor) -> Tensor:
                return self.changed(ref, linear, output)

            return hook

        with hooks() as handles:
            for ref in block.linears:
                handles.append(block.module.get_submodule(ref.name).register_forward_hook(change(ref)))
            yield
