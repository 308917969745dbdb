"""Memory and time of a run, said before it starts: from shapes, and from a short timing on this machine."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eckart.blocks.block import Block
from eckart.blocks.block_arguments import BlockArguments, Inputs
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.carried import Carried
from eckart.blocks.discovery import vocabulary_of
from eckart.blocks.entrance import Entered
from eckart.compression.allocate import needs_measurement
from eckart.compression.estimate import Estimate
from eckart.compression.plan import Plan
from eckart.compression.request import request_for_walk
from eckart.data.samples import IDS
from eckart.device import (
    autocast,
    give_back_memory,
    host_memory,
    peak_host_memory,
)
from eckart.maths.products import gram
from eckart.maths.stopwatch import random_matrix, seconds_of
from eckart.methods.objectives import InputSource
from eckart.methods.refinement.activations import checkpointed, saved_bytes
from eckart.methods.sensitivity.cost import StepSeconds
from eckart.methods.training import TrainingConfig
from eckart.run.memory import memory_of_run
from eckart.run.sensitivity_cost import measurement_seconds
from eckart.run.timing import factorisation_seconds

PROBE_TOKENS = 64  # of the pass in which a block's activations are counted


def estimate(
    model: BlockwiseModel, plan: Plan, *, limit: int | None = None, device_limit: int | None = None
) -> Estimate:
    """Return the expected memory and time; runs one batch through the first block, and one factorisation.

    Args:
        model: to be compressed.
        plan: what is to be done to it.
        limit: bytes of resident memory that the process may take; None for no limit.
        device_limit: bytes that may be allocated on the accelerator; None for no limit.
    """
    probe = _Probe(model, plan)
    memory = memory_of_run(model, plan, probe.activation_bytes())
    give_back_memory(model.device)
    base = host_memory()
    distils = plan.recipe.distillation.needs_data
    ways = ((True, False), (True, True)) if distils else ((True, False), (False, False))
    for in_memory, recompute in (*ways, (False, memory.activations > 0 or memory.student > 0)):
        smaller = memory.with_less(in_memory=in_memory, checkpoint=recompute)
        if smaller.fits(base, limit, device_limit):
            break
    memory = smaller
    seconds = probe.block_seconds(recompute=recompute)
    allocation_seconds = probe.allocation_seconds()
    distillation_seconds = probe.distillation_seconds(recompute=recompute)
    # Read again: the short runs loaded libraries that the long one needs too.
    give_back_memory(model.device)
    return Estimate(
        max(host_memory() + memory.host, peak_host_memory()),
        memory.device if model.device.type != "cpu" else None,
        allocation_seconds,
        seconds,
        seconds * len(plan.blocks),
        distillation_seconds,
        in_memory,
        recompute,
    )


@dataclass
class _Probe:
    """Short runs of the first block, as it is and as it will be."""

    model: BlockwiseModel
    plan: Plan

    def __post_init__(self) -> None:
        self.recipe, self.calibration, self.device = self.plan.recipe, self.model.calibration, self.model.device
        self.width, self.vocabulary = self.plan.blocks[-1].width, vocabulary_of(self.model.model) or 0
        self.entered: dict[int, Entered] = {}  # what segments are handed for the first batch

    def activation_bytes(self) -> int:
        """Return what the training of a block holds between the forward and the backward pass of one batch."""
        trains = self.recipe.refinement.needs_data or self.recipe.distillation.needs_data
        trains = trains or self.recipe.preparation.training is not None
        if self.calibration is None or not trains:
            return 0
        if self.calibration.tokens is None:
            return max(self._held(segment[0], self._first_inputs()) for segment in self.model.segments)
        batch = self._first_inputs()[IDS]
        tokens = batch[:1, :PROBE_TOKENS]
        return self._held(0, {IDS: tokens}) * batch.numel() // tokens.numel()

    def _first_inputs(self) -> Inputs:
        return next(iter(self.model.batches()))

    def _held(self, first: int, inputs: Inputs) -> int:
        """Return what the training of a segment's first block holds for some inputs."""
        with self._block(first, inputs) as (block, call, hidden):
            sample = _trainable(self._factored(block, first))
            return saved_bytes(lambda: self._forward(sample, call, hidden), list(sample.parameters()))

    def block_seconds(self, *, recompute: bool) -> float:
        """Return the seconds of all that is done to one block; of several segments, a mean."""
        if self.calibration is None:
            return factorisation_seconds(_largest(self.plan.blocks), self.plan, self.device)
        segments = self.model.segments
        total = sum(len(segment) * self._segment_seconds(segment, recompute=recompute) for segment in segments)
        return total / sum(map(len, segments))

    def _segment_seconds(self, segment: range, *, recompute: bool) -> float:
        """Return the seconds of all that is done to one block of a segment."""
        assert self.calibration is not None
        block = _largest([self.plan.blocks[number] for number in segment])
        seconds = factorisation_seconds(block, self.plan, self.device)
        at_once = self.calibration.at_once
        with self._block(segment[0], self._first_inputs()) as (dense, call, hidden):
            factored = self._factored(dense, segment[0])
            with torch.no_grad():
                passes = [seconds_of(lambda: call(dense, hidden), self.device)]
                passes.append(seconds_of(lambda: call(factored, hidden), self.device))
            seconds += self._preparation_seconds(dense, call, hidden, passes[0], seconds)
            refinement = self.recipe.refinement.training
            if refinement is not None:
                factored = _trainable(factored)
                with checkpointed(factored) if recompute else nullcontext():
                    both = seconds_of(lambda: self._forward_and_backward(factored, call, hidden), self.device)
                samples = len(self.calibration)
                trained_on, held_out = refinement.split(samples)
                epoch = (both * trained_on + passes[1] * held_out) / at_once
                seconds += refinement.epochs_on(samples) * epoch
                seconds += refinement.steps(samples) * self._step_seconds(refinement, factored)
            seconds += self._statistics_seconds(block, passes, self._rows(segment[0])) * math.ceil(
                len(self.calibration) / at_once
            )
        return seconds

    def _preparation_seconds(
        self, dense: nn.Module, call: BlockArguments, hidden: Tensor, once: float, solved: float
    ) -> float:
        """Return the seconds of a block's preparation.

        Args:
            dense: the block.
            call: how it is called.
            hidden: a batch in front of it.
            once: seconds of a pass of that.
            solved: seconds of solving for its linears, about as long as cutting them once.
        """
        preparation = self.recipe.preparation.training
        if preparation is None or self.calibration is None:
            return 0.0
        trained = _trainable(copy.deepcopy(dense))
        both = seconds_of(lambda: self._forward_and_backward(trained, call, hidden), self.device)
        samples = len(self.calibration)
        trained_on, held_out = preparation.split(samples)
        epochs, steps = preparation.epochs_on(samples), preparation.steps(samples)
        passes = epochs * (both * trained_on + once * held_out) / self.calibration.at_once
        cuts = epochs + 1 + steps / preparation.penalty.decomposes_every
        return passes + steps * self._step_seconds(preparation, trained) + cuts * solved

    def allocation_seconds(self) -> float:
        """Return the seconds of what is measured before the ranks are known."""
        if not needs_measurement(self.plan):
            return 0.0
        block = _largest(self.plan.blocks)
        return measurement_seconds(self.plan, block, self._step_timings(block), self.device)

    def _step_timings(self, block: Block) -> StepSeconds | None:
        """Return the seconds of single steps of a measurement; None if there are no tokens."""
        if self.calibration is None:
            return None
        widths = [group.linears[0].in_features for group in block.groups]
        with self._block(0, self._first_inputs()) as (dense, call, hidden), torch.no_grad():
            once = seconds_of(lambda: call(dense, hidden), self.device)
            rows = self._rows(0)
            sample = random_matrix(rows, max(widths)).to(self.device)
            product = seconds_of(lambda: gram(sample), self.device) / max(widths) ** 2
        return StepSeconds(
            block=once,
            moments=product * sum(width**2 for width in widths),
            head=product * self.width * self.vocabulary,
            batch_tokens=rows,
            blocks=len(self.plan.blocks),
            shapes=tuple(ref.shape for ref in block.linears),
            samples=len(self.calibration),
            length=rows // self.calibration.at_once,
            device=self.device,
        )

    def distillation_seconds(self, *, recompute: bool) -> float:
        """Return the seconds of a distillation."""
        distillation = self.recipe.distillation.training
        if self.calibration is None or distillation is None:
            return 0.0
        with self._block(0, self._first_inputs()) as (dense, call, hidden):
            factored = _trainable(self._factored(dense, 0))
            rows = self._rows(0)
            both = seconds_of(lambda: self._forward_and_backward(factored, call, hidden), self.device)
            with torch.no_grad():
                once = seconds_of(lambda: self._forward(factored, call, hidden), self.device)
            update = self._step_seconds(distillation, factored)
        head = self._head_seconds(rows)
        blocks, samples = len(self.plan.blocks), len(self.calibration)
        trained_on, held_out = distillation.split(samples)
        # Logits of both models, and a gradient of one.
        step = blocks * (both + once * recompute) + 3 * head
        look = blocks * once + 2 * head
        sides = len(distillation.sides)
        epochs = sides * distillation.epochs_on(samples)
        updates = sides * distillation.steps(samples) * blocks * update
        return epochs * (step * trained_on + look * held_out) / self.calibration.at_once + updates

    def _step_seconds(self, config: TrainingConfig, block: nn.Module) -> float:
        """Return the seconds of one step of a block's optimiser; batches may be small, so that there are many."""
        parameters = list(block.parameters())
        optimiser = config.optimiser(parameters)

        def step() -> None:
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
            config.step(optimiser, 0.0)

        return seconds_of(step, self.device)

    def _head_seconds(self, rows: int) -> float:
        """Return the seconds that the logits of so many tokens take, and their logarithms."""
        few = max(1, self.vocabulary // 16)
        hidden = random_matrix(rows, self.width).to(self.device, self.model.compute)
        head = random_matrix(self.width, few).to(self.device, self.model.compute)
        return seconds_of(lambda: (hidden @ head).float().log_softmax(-1), self.device) * self.vocabulary / few

    def _rows(self, number: int) -> int:
        """Return how many vectors a block is run on for one batch."""
        known = self.model.known
        return max(1, self.model.rows(number) * known.at_once // len(known))

    def _statistics_seconds(self, block: Block, passes: list[float], rows: int) -> float:
        """Return the seconds that the statistics of a block take for one batch of so many vectors."""
        streams, refined = self.recipe.objective.input_source, self.recipe.refinement.needs_data
        distilled = self.recipe.distillation.needs_data
        sizes = [sum(t.size for t in group.linears) for group in block.groups]
        widths = [group.linears[0].in_features for group in block.groups]
        if not widths:  # the recipe leaves all of it
            return sum(passes)
        sample = random_matrix(rows, max(widths)).to(self.device)
        product = seconds_of(lambda: gram(sample), self.device) / max(widths) ** 2
        if request_for_walk(self.recipe).keep_moments:  # which are sums of the pass that ranks were found in
            return passes[0] * (refined or distilled) + passes[1] * refined
        original = streams in (InputSource.ORIGINAL, InputSource.BOTH) or refined or distilled
        in_order = streams in (InputSource.COMPRESSED, InputSource.BOTH)
        # How far into the block the passes of the compressed model run before they stop at each group.
        depth = sum(sum(sizes[:index]) for index in range(len(sizes))) / sum(sizes)
        # What is summed for pairs of tokens is not symmetric: a whole product, as long as 1.6 symmetric ones.
        moments = {InputSource.NONE: 0, InputSource.ORIGINAL: 1, InputSource.COMPRESSED: 1, InputSource.BOTH: 2.6}[
            streams
        ]
        return (
            passes[0] * original
            + passes[1] * (depth * in_order + (in_order or refined))
            + product * moments * sum(width**2 for width in widths)
        )

    @contextmanager
    def _block(self, first: int, inputs: Inputs) -> Iterator[tuple[nn.Module, BlockArguments, Tensor]]:
        """Give the first block of a segment, with a call of it and the hidden states in front of it.

        Args:
            first: its number.
            inputs: of the model; the first batch, for segments behind the first one.
        """
        if first and not self.entered:
            self._enter_all()
        if first:
            entered = self.entered[first]
        else:
            with self.model.entrance() as front, torch.no_grad():
                entered = front(inputs)
        with self.model.onload(first):
            # The first block of a segment is handed nothing that others gave.
            none: dict[Carried, Tensor] = {}
            yield self.model.modules[first], entered.arguments[0].bound(none.__getitem__), entered.hidden

    def _enter_all(self) -> None:
        """Run the model on the first batch, to know what its segments are handed."""
        one = self.model.batch(0)
        streams = one.forward()
        for segment in one.segments:
            hidden = streams.fronts[segment[0]][0].to(self.device, self.model.compute)
            call = one.arguments[segment[0]].of(hidden, 0)
            self.entered[segment[0]] = Entered(hidden, [call])
        streams.delete_all()

    def _factored(self, block: nn.Module, number: int) -> nn.Module:
        """Return a copy of a block with factors of the planned ranks, their numbers without meaning."""
        sample = copy.deepcopy(block)
        for ref in self.plan.blocks[number].linears:
            if self.plan.changes(ref.path):
                linear, layout = sample.get_submodule(ref.name), self.plan.layout(ref.path)
                layer = layout.empty_like(linear, self.plan.ranks[ref.path])
                with torch.no_grad():
                    for parameter in layer.parameters():
                        parameter.fill_(0.01)
                sample.set_submodule(ref.name, layer)
        return sample

    def _forward_and_backward(self, block: nn.Module, call: BlockArguments, hidden: Tensor) -> None:
        self._forward(block, call, hidden).sum().backward()  # type: ignore[no-untyped-call]

    def _forward(self, block: nn.Module, call: BlockArguments, hidden: Tensor) -> Tensor:
        with autocast(self.device, self.model.compute):
            return call(block, hidden.float()).float()


def _largest(blocks: Sequence[Block]) -> Block:
    return max(blocks, key=lambda block: sum(ref.size for ref in block.linears))


def _trainable(block: nn.Module) -> nn.Module:
    for parameter in block.float().parameters():
        parameter.requires_grad_(True)
    return block
