r"""Distillation of the whole model with one block at work at a time.

With the hidden states behind the last block h in the original model and h' in the compressed one, and the model's own
head f behind both, all blocks are trained to

    minimise   mean over predictions of KL( softmax f(h) || softmax f(h') ).

For a model that gives vectors it is half their squared distance. A step runs the blocks forwards over its sequences,
and then backwards, each taking its optimiser step as soon as its gradients are there. What the original model computes
is known: only h is kept, which is as small as hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from eckart import processes
from eckart.blocks.backward import entrance_gradients
from eckart.blocks.block_arguments import BlockArguments, Inputs
from eckart.blocks.blockwise_model import BlockwiseModel, rows_of
from eckart.blocks.carried import Carried
from eckart.blocks.entrance import Entered, enter
from eckart.blocks.losses import divergence, gives_logits, model_loss
from eckart.blocks.passes import HiddenStates, gather
from eckart.compression.distil.student import StudentBlock
from eckart.data.samples import LABELS
from eckart.device import autocast
from eckart.errors import UnsupportedModelError
from eckart.methods.training.gradients import add_gradients

Head = Callable[[Inputs, Mapping[int, Tensor]], Any]
"""Gives what the model returns, for inputs and for the hidden states behind blocks."""


@dataclass
class _Part:
    """Sequences that are run together in a step.

    Attributes:
        numbers: of the sequences.
        inputs: of the model.
        hidden: states in front of the next block.
        taps: hidden states behind blocks that others than the next block look at; of the last block too.
        calls: how the blocks of segments behind the first are called.
        given: what blocks gave to later ones of their segment.
        gradients: behind blocks.
        of_arguments: gradients at what the blocks of the present segment are handed, by slot.
        of_given: gradients at what blocks gave.
    """

    numbers: Tensor
    inputs: Inputs
    hidden: Tensor
    taps: dict[int, Tensor] = field(default_factory=dict)
    calls: dict[int, BlockArguments] = field(default_factory=dict)
    given: dict[Carried, Tensor] = field(default_factory=dict)
    gradients: dict[int, Tensor] = field(default_factory=dict)
    of_arguments: dict[int, Tensor] = field(default_factory=dict)
    of_given: dict[Carried, Tensor] = field(default_factory=dict)

    def add_gradient(self, block: int, gradient: Tensor) -> None:
        """Add to the gradient behind a block."""
        self.gradients[block] = gradient + self.gradients[block] if block in self.gradients else gradient


@dataclass
class _Run:
    """One run of a block: what it was handed, and what it gave, if that is held: the hidden states first."""

    front: Tensor
    call: BlockArguments
    leaves: dict[int | Carried, Tensor]
    outputs: list[Tensor] | None


@dataclass
class Student:
    """The compressed model in training.

    Attributes:
        model: gives the samples, and how each block is called.
        blocks: in order.
        inputs: hidden states in front of the first block.
        desired: those behind the last block of the original model, and behind those that are tapped.
        head: of the model.
        recompute: whether to compute activations twice instead of holding them.
        follows_text: whether the loss is that of the next token of the text, and not the distance from the original.
    """

    model: BlockwiseModel
    blocks: Sequence[StudentBlock]
    inputs: HiddenStates
    desired: Mapping[int, HiddenStates]
    head: Head
    recompute: bool
    follows_text: bool = False

    def step(self, batch: Tensor, learning_rate: float) -> float:
        """Take one optimiser step on the sequences ``batch``, and return the sum of their losses before it."""
        parts = self._parts(batch)
        predictions = self.unit(batch)
        held: list[list[_Run]] = []
        for number, block in enumerate(self.blocks):
            self._enter(number, parts)
            runs: list[_Run] = []
            with block.used(), torch.set_grad_enabled(not self.recompute):
                for part in parts:
                    front = part.hidden.requires_grad_(True)
                    call, leaves = self._differentiable(number, part)
                    outputs = self._run(block.tensors, number, call, front)
                    self._take(number, part, outputs)
                    runs.append(_Run(front, call, leaves, None if self.recompute else outputs))
            held.append(runs)
        loss = sum(self._loss_and_gradient(part, predictions) for part in parts)
        for number, block in reversed(list(enumerate(self.blocks))):
            with block.used():
                for part, run in zip(parts, held.pop(), strict=True):
                    self._backward(number, part, run, block)
                add_gradients(list(block.parameters.values()))
                block.step(learning_rate)
            self._leave(number, parts)
        return processes.total(loss)[0]

    def unit(self, sequences: Tensor) -> float:
        """Return the number of tokens; where there are none, of sequences."""
        known = self.model.known
        if known.tokens is not None:
            return len(sequences) * (known.length - self.follows_text)  # nothing is in front of the first token
        return float(processes.total(sum(self._predictions(index) for index in known.kept(sequences).tolist()))[0])

    def loss(self, sequences: Tensor) -> float:
        """Return the sum of the losses of sequences with the present weights as they would be stored."""
        parts = self._parts(sequences)
        with torch.no_grad():
            for number, block in enumerate(self.blocks):
                self._enter(number, parts)
                with block.used():
                    tensors = block.as_stored
                    for part in parts:
                        outputs = self._run(tensors, number, self._call(number, part), part.hidden)
                        self._take(number, part, outputs)
            loss = sum(
                float(self._divergence(index, row, ends))
                for part in parts
                for index, (row, ends) in zip(part.numbers.tolist(), self._rows(part), strict=True)
            )
        return processes.total(loss)[0]

    def is_finite(self) -> bool:
        """Return whether no weight is NaN or infinite as it would be stored."""
        finite = True
        for block in self.blocks:
            with block.used():
                finite = finite and all(bool(torch.isfinite(tensor).all()) for tensor in block.rounded().values())
        return processes.total(finite)[0] == processes.size()

    def snapshot(self) -> None:
        """Remember the present state."""
        for block in self.blocks:
            with block.used():
                block.snapshot()

    def _parts(self, sequences: Tensor) -> list[_Part]:
        known = self.model.known
        own = known.kept(sequences)
        return [
            _Part(part, self.model.inputs(part), self._gather(self.inputs, part).float())
            for part in (torch.split(own, known.at_once) if len(own) else ())
        ]

    def _gather(self, stream: HiddenStates, numbers: Tensor) -> Tensor:
        """Return sequences of a stream that are run here, by their numbers."""
        known = self.model.known
        return gather(stream, known.places(numbers), known.at_once, self.model.device)

    def _take(self, number: int, part: _Part, outputs: Sequence[Tensor]) -> None:
        """Go behind a block, and take note of what others look at."""
        part.hidden = outputs[0].detach()
        part.given |= {Carried(number, n): tensor.detach() for n, tensor in enumerate(outputs[1:])}
        if self.model.blocks[number].tapped or number == len(self.blocks) - 1:
            part.taps[number] = part.hidden.detach()

    def _enter(self, number: int, parts: Sequence[_Part]) -> None:
        """Go to the front of a segment behind the first one, through the model's own code."""
        if number and self.model.blocks[number].enters:
            for part in parts:
                with torch.no_grad():
                    entered = self._entered(number, part, part.taps)
                part.hidden = entered.hidden.detach().float()
                part.calls |= dict(enumerate(entered.arguments, number))

    def _entered(self, number: int, part: _Part, taps: Mapping[int, Tensor]) -> Entered:
        compute = {n: tap.to(self.model.compute) for n, tap in taps.items() if n < number}
        block = self.blocks[number]

        def run(*args: Any, **kwargs: Any) -> Any:  # a first block that gives more than hidden states
            with block.used():
                return functional_call(block.module, dict(block.tensors), args, kwargs)

        model = self.model
        with autocast(model.device, model.compute):
            return enter(model.model, model.blocks, number, model.moved(part.inputs), compute, run=run)

    def _leave(self, number: int, parts: Sequence[_Part]) -> None:
        """Carry the gradients in front of a segment to the blocks that it was entered from."""
        if not number or not self.model.blocks[number].enters:
            return
        for part in parts:
            found = entrance_gradients(
                lambda _, taps, part=part: self._entered(number, part, taps),
                part.inputs,
                {n: tap for n, tap in part.taps.items() if n < number},
                part.gradients.pop(-1),
                part.of_arguments,
                self.model.device,
                self.model.compute,
            )
            part.of_arguments.clear()
            for block, gradient in found.items():
                part.add_gradient(block, gradient)

    def _differentiable(self, number: int, part: _Part) -> tuple[BlockArguments, dict[int | Carried, Tensor]]:
        """Return how a block is called, and what comes from other blocks there, as leaves for gradients."""
        call = self._call(number, part)
        return call.differentiable() if number in part.calls or call.carried else (call, {})

    def _call(self, number: int, part: _Part) -> BlockArguments:
        if number in part.calls:
            return part.calls[number].bound(part.given.__getitem__)
        known = self.model.known
        batch = int(known.places(part.numbers)[0]) if known.at_once == 1 else None
        return self.model.arguments[number].of(part.hidden, batch, part.given.__getitem__)

    def _backward(self, number: int, part: _Part, run: _Run, block: StudentBlock) -> None:
        outputs = run.outputs
        if outputs is None:
            outputs = self._run(block.tensors, number, run.call, run.front)
        ends, gradients = [outputs[0]], [part.gradients.pop(number)]
        for n, tensor in enumerate(outputs[1:]):
            gradient = part.of_given.pop(Carried(number, n), None)
            if gradient is not None and tensor.requires_grad:
                ends.append(tensor)
                gradients.append(gradient.to(tensor))
        torch.autograd.backward(ends, gradients)
        front = torch.zeros_like(run.front) if run.front.grad is None else run.front.grad
        for slot, leaf in run.leaves.items():
            if leaf.grad is not None and isinstance(slot, Carried):
                part.of_given[slot] = leaf.grad + part.of_given.get(slot, 0)
            elif leaf.grad is not None and isinstance(slot, int):
                part.of_arguments[slot] = leaf.grad + part.of_arguments.get(slot, 0)
        # -1 is in front of the segment.
        part.add_gradient(-1 if self.model.blocks[number].enters else number - 1, front)

    def _run(self, tensors: Mapping[str, Tensor], number: int, call: BlockArguments, hidden: Tensor) -> list[Tensor]:
        """Return the hidden states behind a block, and what it gives to later ones."""

        def run(*args: object, **kwargs: object) -> object:
            return functional_call(self.blocks[number].module, dict(tensors), args, kwargs)

        with autocast(self.model.device, self.model.compute):
            # A copy, since a block may write into what it is given, which a leaf forbids.
            output = call.run(run, hidden.clone())
            return [call.site.result(output).float(), *call.given(output)]

    def _rows(self, part: _Part) -> list[tuple[dict[str, Tensor], dict[int, Tensor]]]:
        return rows_of(part.inputs, part.taps, self.model.known.at_once)

    def _loss_and_gradient(self, part: _Part, predictions: float) -> float:
        """Return the summed loss of a part of a batch, and take the mean loss's gradients behind its blocks."""
        total = 0.0
        rows: list[tuple[Tensor | None, ...]] = []
        for index, (inputs, ends) in zip(part.numbers.tolist(), self._rows(part), strict=True):
            # One sequence at a time: logits are large.
            leaves = {n: end.detach().requires_grad_(True) for n, end in ends.items()}
            loss = self._divergence(index, inputs, leaves)
            rows.append(torch.autograd.grad(loss / predictions, list(leaves.values()), allow_unused=True))
            total += float(loss.detach())
        for place, block in enumerate(part.taps):
            found = [row[place] for row in rows]
            if all(gradient is not None for gradient in found):
                part.add_gradient(block, torch.cat([g for g in found if g is not None]))
            elif block == len(self.blocks) - 1:
                part.add_gradient(block, torch.zeros_like(part.taps[block]))
        return total

    def _divergence(self, index: int, inputs: Inputs, ends: Mapping[int, Tensor]) -> Tensor:
        """Return the loss of a sequence, summed over its predictions."""
        model, one = self.model, torch.tensor([index])
        if self.follows_text:
            found = self.head(inputs, {n: end.to(model.compute) for n, end in ends.items()})
            return self._loss_of_text(found, inputs)[0]
        target = {n: self._gather(s, one) for n, s in self.desired.items()}
        with torch.no_grad():
            expected = self.head(inputs, {n: end.to(model.compute) for n, end in target.items()})
        found = self.head(inputs, {n: end.to(model.compute) for n, end in ends.items()})
        return divergence(found, expected, inputs, predicts_next=model.predicts_next)[0]

    def _loss_of_text(self, output: Any, inputs: Inputs) -> tuple[Tensor, int]:
        """Return the loss of what the text says, summed, and the number of predictions."""
        if not gives_logits(output) or (LABELS not in inputs and not self.model.predicts_next):
            raise UnsupportedModelError(
                "Adapters are trained on what a text or its labels say, and the model predicts neither. Use "
                "--set distillation=logits, or none."
            )
        return model_loss(output, inputs, predicts_next=self.model.predicts_next)

    def _predictions(self, index: int) -> int:
        """Return the number of predictions that are made for a sequence."""
        if index not in self._counts:
            model, one = self.model, torch.tensor([index])
            target = {n: self._gather(s, one).to(model.compute) for n, s in self.desired.items()}
            inputs = model.sample(index)
            with torch.no_grad():
                output = self.head(inputs, target)
                self._counts[index] = (
                    self._loss_of_text(output, inputs)
                    if self.follows_text
                    else divergence(output, output, inputs, predicts_next=model.predicts_next)
                )[1]
        return max(self._counts[index], 1)

    def __post_init__(self) -> None:
        self._counts: dict[int, int] = {}
