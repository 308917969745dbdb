"""Gradients of a model's loss, block by block from the last to the first; activations are computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from eckart import processes
from eckart.blocks.block import Block, LinearRef, attributes_kept, hooks
from eckart.blocks.block_arguments import BlockArguments, Inputs
from eckart.blocks.blockwise_model import BlockwiseModel, Streams, rows_of
from eckart.blocks.carried import Carried
from eckart.blocks.entrance import Entered
from eckart.blocks.losses import model_loss, predictions
from eckart.blocks.passes import HiddenStates
from eckart.blocks.tensor_cache import TensorCache
from eckart.errors import NonFiniteError
from eckart.layers import input_of
from eckart.layers.rows import rows_asked
from eckart.maths.labels import NEXT_TOKENS, LabelSource

Observe = Callable[[LinearRef, Tensor, Tensor | None, slice | None], None]
"""Is told, for each run of a linear, its inputs (tokens, n) and the loss's gradients at its outputs (tokens, m).

None for the gradients of a linear whose output goes nowhere. Of a linear of several runs, those at the outputs that a
slice says; None for all.
"""

Front = Callable[..., Entered]
Run = tuple[LinearRef, Tensor, Tensor, slice | None]
"""Of a linear: its inputs, its outputs, and which outputs were asked for; None for all."""


class BackwardPass:
    """The gradients of a loss, from the last block to the first.

    Args:
        model: was run over ``streams``.
        streams: hidden states around its blocks.
        name: of the gradient, if there are several at a time.

    Attributes:
        count: predictions in the loss.
    """

    def __init__(self, model: BlockwiseModel, streams: Streams, *, name: str = "") -> None:
        self.model, self.streams, self.name = model, streams, name
        self.count = 0
        self._behind: dict[int, list[TensorCache]] = {}
        self._arguments: list[dict[int, Tensor]] = [{} for _ in model.batches()]  # gradients by batch and slot
        self._given: list[dict[Carried, Tensor]] = [{} for _ in model.batches()]  # at what blocks gave later ones

    @classmethod
    def of_loss(
        cls,
        model: BlockwiseModel,
        streams: Streams,
        source: LabelSource = NEXT_TOKENS,
        samples: int | None = None,
        *,
        name: str = "",
    ) -> BackwardPass:
        """Return the gradients of the model's summed loss.

        Args:
            model: as for the class, like ``streams`` and ``name``.
            streams: around its blocks.
            source: of the labels.
            samples: only the first ones count; the gradient of the others is zero. None for all.
            name: of the gradient.

        Raises:
            NonFiniteError: the loss or its gradient is NaN or infinite.
        """
        found = cls(model, streams, name=name)
        found._start(source, samples)
        return found

    def add_behind(self, gradients: Mapping[int, Tensor]) -> None:
        """Give the gradient behind the last block, and behind those that the head looks at, for the next batch."""
        for number, gradient in gradients.items():
            if number not in self._behind:
                self._behind[number] = [self._cache(number)]
            self._behind[number][0].append(gradient)

    def _start(self, source: LabelSource, samples: int | None) -> None:
        """Take the gradient behind the last block, and behind those that the head looks at."""
        model = self.model
        draws = model.draws()
        ends = model.ends_of(self.streams.behinds)
        self._behind = {n: [self._cache(n)] for n in ends}
        own, count = iter(model.known.own), 0
        with model.head() as head:
            for number, inputs in enumerate(model.batches()):
                behind = {n: stream[number] for n, stream in ends.items()}
                rows = rows_of(inputs, behind, model.known.at_once)
                parts: list[dict[int, Tensor]] = []
                for row, hidden in rows:
                    leaves = {n: t.to(model.device, model.model.dtype, copy=True) for n, t in hidden.items()}
                    generator = next(draws)
                    if samples is not None and next(own) >= samples:
                        parts.append({n: torch.zeros_like(t, dtype=torch.float32) for n, t in leaves.items()})
                        continue
                    loss, made = self._loss(head, row, leaves, source, generator)
                    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
                    count += made
                    parts.append({n: _or_zero(g, t) for (n, t), g in zip(leaves.items(), gradients, strict=True)})
                    if not all(torch.isfinite(part).all() for part in parts[-1].values()):
                        raise NonFiniteError("The gradient of the loss is NaN or infinite on the calibration tokens.")
                self.add_behind({n: torch.cat([part[n] for part in parts]) for n in behind})
        self.count = round(processes.total(count)[0])

    def _loss(
        self, head: Any, inputs: Inputs, leaves: dict[int, Tensor], source: LabelSource, generator: torch.Generator
    ) -> tuple[Tensor, int]:
        for leaf in leaves.values():
            leaf.requires_grad_(True)
        with torch.enable_grad():
            output = head(inputs, leaves)
            finite = bool(torch.isfinite(predictions(output)).all())
            loss, count = model_loss(output, inputs, source, generator, predicts_next=self.model.predicts_next)
        if not finite:
            raise NonFiniteError(
                "The gradient of the loss is NaN or infinite on the calibration tokens: so are the logits."
            )
        return loss, count

    def behind(self, index: int) -> HiddenStates:
        """Return the gradient behind a block, float32, summed over those who look at what it gives."""
        caches = self._behind[index]
        if len(caches) > 1:
            total = self._cache(index, "sum")
            for parts in zip(*caches, strict=True):
                total.append(torch.stack(list(parts)).sum(0))
            for cache in caches:
                cache.delete()
            self._behind[index] = [total]
        return self._behind[index][0]

    def step(
        self,
        index: int,
        observe: Observe = lambda ref, inputs, gradient, asked: None,
        more: Sequence[Tensor] = (),
        *,
        all_inputs: bool = True,
    ) -> list[Tensor | None]:
        """Carry the gradient from behind a block, which is onloaded, to its front.

        Args:
            index: of the block; the last one first.
            observe: is told the inputs and the output gradients of its linears.
            more: tensors that the block looks at, whose gradients are asked for.
            all_inputs: whether ``observe`` is told the inputs of batches without any gradient, too. Nothing is run
                backward for those.

        Returns:
            Those of ``more``, summed over the batches; None where the block does not look at one.

        Raises:
            NonFiniteError: a gradient is NaN or infinite; names the block.
        """
        model, block = self.model, self.model.blocks[index]
        first = next(n for n in range(index, -1, -1) if model.blocks[n].enters)
        behind, front = self.behind(index), self._cache(index, "front")
        taps = any(model.blocks[n].tapped for n in range(first))
        sums: list[Tensor | None] = [None for _ in more]
        passes = model.block_pass(index).over(self.streams.fronts[index])
        for number, ((call, hidden), gradient) in enumerate(zip(passes, behind, strict=True)):
            leaves: dict[int | Carried, Tensor] = {}
            if not (more or gradient.any() or any(key.block == index for key in self._given[number])):
                if all_inputs:
                    observe_inputs(block, call, hidden, observe)
                front.append(torch.zeros_like(hidden, dtype=torch.float32))
                continue
            if taps or call.carried:
                call, leaves = call.differentiable()
            given = self._given[number]
            at_given = {n: given.pop(key) for n in range(len(block.site.gives)) if (key := Carried(index, n)) in given}
            found, others = backward_through(
                block, call, hidden, gradient.to(model.device), observe, [*more, *leaves.values()], at_given
            )
            for n, one in enumerate(others[: len(more)]):
                known = sums[n]
                sums[n] = one if known is None else known if one is None else known + one
            if not torch.isfinite(found).all():
                raise NonFiniteError(
                    f"The gradient of the loss in front of {block.path} is NaN or infinite on the calibration tokens."
                )
            front.append(found)
            for slot, other in zip(leaves, others[len(more) :], strict=True):
                if other is not None and isinstance(slot, Carried):
                    given[slot] = other.float().cpu() + given.get(slot, 0)
                elif other is not None and isinstance(slot, int):
                    self._arguments[number][slot] = other.float().cpu() + self._arguments[number].get(slot, 0)
        behind.delete()
        del self._behind[index]
        if not block.enters:
            self._behind.setdefault(index - 1, []).append(front)
        elif index:
            self._through_entrance(index, front)
            front.delete()
        else:
            front.delete()
        return sums

    def _through_entrance(self, first: int, front: HiddenStates) -> None:
        """Carry the gradient in front of a segment to the blocks whose outputs the model's own code looked at."""
        model = self.model
        taps = model.taps(self.streams.behinds[:first])
        caches = {n: self._cache(n, f"tap-{first}") for n in taps}
        with model.entrance(first) as enter:
            for number, inputs in enumerate(model.batches()):
                outputs = {n: stream[number] for n, stream in taps.items()}
                found = entrance_gradients(
                    enter, inputs, outputs, front[number], self._arguments[number], model.device, model.compute
                )
                for n, cache in caches.items():
                    cache.append(found[n])
                self._arguments[number].clear()
        for n, cache in caches.items():
            self._behind.setdefault(n, []).append(cache)

    def close(self) -> None:
        """Give back what is left."""
        for caches in self._behind.values():
            for cache in caches:
                cache.delete()

    def _cache(self, index: int, part: str = "") -> TensorCache:
        return self.model.scratch.cache(f"gradient-{self.name}-{index:05d}{part}", torch.float32)


def entrance_gradients(
    enter: Front,
    inputs: Inputs,
    outputs: Mapping[int, Tensor],
    front: Tensor,
    arguments: Mapping[int, Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> dict[int, Tensor]:
    """Return the gradient at the outputs of earlier blocks from those at what a segment is handed, float32.

    Args:
        enter: gives what the segment is handed, for inputs and outputs.
        inputs: of the model, for one batch.
        outputs: of earlier blocks that are tapped.
        front: gradient in front of the segment.
        arguments: gradients at the tensors that its blocks are handed, by slot.
        device: where the model is.
        dtype: of its products.
    """
    leaves = {n: tensor.detach().to(device, dtype).requires_grad_(True) for n, tensor in outputs.items()}
    with torch.enable_grad():
        entered = enter(inputs, leaves)
    ends: list[Tensor] = [entered.hidden]
    gradients: list[Tensor] = [front.to(entered.hidden)]
    seen: set[int] = set()
    for call in entered.arguments:
        for leaf, slot in zip(call.flat()[0], call.slots, strict=True):
            if slot in arguments and slot not in seen and isinstance(leaf, Tensor) and leaf.requires_grad:
                seen.add(slot)
                ends.append(leaf)
                gradients.append(arguments[slot].to(leaf))
    pairs = [(end, gradient) for end, gradient in zip(ends, gradients, strict=True) if end.requires_grad]
    if not pairs or not leaves:
        return {n: torch.zeros_like(leaf, dtype=torch.float32) for n, leaf in leaves.items()}
    found = torch.autograd.grad(
        [end for end, _ in pairs], list(leaves.values()), [gradient for _, gradient in pairs], allow_unused=True
    )
    return {n: _or_zero(gradient, leaf) for (n, leaf), gradient in zip(leaves.items(), found, strict=True)}


def backward_through(
    block: Block,
    call: BlockArguments,
    hidden: Tensor,
    gradient: Tensor,
    observe: Observe,
    leaves: Sequence[Tensor] = (),
    at_given: Mapping[int, Tensor] | None = None,
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the gradient in front of a block from the one behind it, for one batch, and those of other leaves.

    Args:
        block: that is run again.
        call: how the model calls it.
        hidden: in front of it, (..., width).
        gradient: behind it, float32.
        observe: is told the inputs and the output gradients of its linears.
        leaves: other tensors that the block looks at, whose gradients are asked for.
        at_given: gradients at what the block gives to later ones, by number.
    """
    runs: list[Run] = []
    leaf = hidden.detach().requires_grad_(True)
    with attributes_kept(block.module), _recording(block, runs), torch.enable_grad():
        # A copy, since a block may write into what it is given, which a leaf forbids.
        returned = call.run(block.module, leaf.clone())
        ends, gradients = [call.site.result(returned)], [gradient]
        if at_given:
            given = call.given(returned)
            pairs = [(given[n], value) for n, value in at_given.items() if given[n].requires_grad]
            ends += [end for end, _ in pairs]
            gradients += [value.to(end.device) for end, value in pairs]
        # What a block runs without gradients has none.
        reached = [run[2] for run in runs if run[2].requires_grad]
        wanted = [leaf, *leaves, *reached]
        gradients = [value.to(end.dtype) for value, end in zip(gradients, ends, strict=True)]
        found = torch.autograd.grad(ends, wanted, gradients, allow_unused=True)
    at_outputs = iter(found[1 + len(leaves) :])
    for ref, inputs, outputs, asked in runs:
        at_output = next(at_outputs) if outputs.requires_grad else None
        observe(ref, inputs.detach().flatten(0, -2), None if at_output is None else at_output.flatten(0, -2), asked)
    return _or_zero(found[0], hidden), list(found[1 : 1 + len(leaves)])


def observe_inputs(block: Block, call: BlockArguments, hidden: Tensor, observe: Observe) -> None:
    """Run a block on one batch without gradients; ``observe`` is told the inputs of its linears."""
    runs: list[Run] = []
    with attributes_kept(block.module), _recording(block, runs), torch.no_grad():
        call.run(block.module, hidden)
    for ref, inputs, _, asked in runs:
        observe(ref, inputs.flatten(0, -2), None, asked)


@contextmanager
def _recording(block: Block, runs: list[Run]) -> Iterator[None]:
    """Add what the linears of a block are handed and give in the runs inside."""

    def record(ref: LinearRef) -> Callable[..., Tensor]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
            runs.append((ref, input_of(args, kwargs), output, rows_asked(args)))
            return output.clone()  # a block may write into it, and the gradient would be that behind

        return hook

    with hooks() as handles:
        for ref in block.linears:
            linear = block.module.get_submodule(ref.name)
            handles.append(linear.register_forward_hook(record(ref), with_kwargs=True))
        yield


def _or_zero(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like, dtype=torch.float32) if gradient is None else gradient.float()
