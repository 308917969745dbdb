"""A model that is run block by block: forwards with the hidden states kept, through its head, and backwards."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from eckart import processes
from eckart.blocks.argument_table import Arguments, ArgumentTable
from eckart.blocks.block import Block
from eckart.blocks.block_arguments import Inputs, completed, failures_named, inputs_on
from eckart.blocks.entrance import Entered, enter, run_outside, segment_of
from eckart.blocks.losses import divergence, model_loss
from eckart.blocks.onload import OnloadedModule, WeightSource
from eckart.blocks.passes import BlockPass, HiddenStates, advance
from eckart.blocks.tensor_cache import ScratchSpace, TensorCache
from eckart.data.calibration import MAX_SEED, Calibration
from eckart.data.samples import LABELS
from eckart.device import compute_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Taps = Mapping[int, Sequence[Tensor]]
"""Hidden states behind blocks whose outputs the model's own code looks at, batch by batch."""


@dataclass(frozen=True)
class Streams:
    """Hidden states around all blocks.

    Attributes:
        fronts: in front of each block.
        behinds: behind each block; the same as in front of the next one, where that does not enter.
    """

    fronts: list[HiddenStates] = field(default_factory=list)
    behinds: list[HiddenStates] = field(default_factory=list)

    def delete(self, block: int) -> None:
        """Give back what is behind a block, and in front of the next one."""
        self.behinds[block].delete()
        if block + 1 < len(self.fronts):
            self.fronts[block + 1].delete()

    def delete_all(self) -> None:
        """Give back all that there is."""
        for stream in (*self.fronts, *self.behinds):
            stream.delete()


@dataclass
class BlockwiseModel:
    """A model whose blocks are run one at a time, and what it is run on.

    What compresses, measures, trains or times a model does it through this object: it knows where the tensors are,
    how the blocks are called, and where hidden states are kept.

    Attributes:
        model: in evaluation mode.
        blocks: of it, in the order in which they are run.
        weights: where its tensors are.
        device: where blocks are run.
        scratch: where hidden states live.
        calibration: the samples; None if the model is not run.
        arguments: how each block is called; known once it was entered.
    """

    model: PreTrainedModel
    blocks: Sequence[Block]
    weights: WeightSource
    device: torch.device
    scratch: ScratchSpace
    calibration: Calibration | None = None
    arguments: dict[int, Arguments] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dtype: torch.dtype = self.model.dtype  # read now: it is another one while the model is onloaded

    @property
    def modules(self) -> list[nn.Module]:
        """The blocks' modules."""
        return [block.module for block in self.blocks]

    @property
    def seed(self) -> int:
        """The seed of the calibration."""
        return self.known.seed

    @property
    def known(self) -> Calibration:
        """The calibration, which there must be."""
        assert self.calibration is not None
        return self.calibration

    @property
    def compute(self) -> torch.dtype:
        """The dtype of matrix products where the blocks are run."""
        return compute_dtype(self.dtype, self.device)

    @property
    def predicts_next(self) -> bool:
        """Whether the model predicts the next token in each place."""
        last = next(block for block in reversed(self.blocks) if block.enters)
        return last.causal and not getattr(self.model.config, "is_encoder_decoder", False)

    def rows(self, index: int) -> int:
        """Return how many vectors block ``index`` is run on in all, about, where samples differ."""
        known = self.known
        return known.token_count if known.tokens is not None else self.blocks[index].rows * len(known)

    @property
    def stream_numbers(self) -> int:
        """Numbers of the largest hidden states between two blocks."""
        return max(self.rows(index) * block.width for index, block in enumerate(self.blocks))

    @property
    def segments(self) -> list[range]:
        """Numbers of the blocks of each segment: those that hand their outputs straight to one another."""
        return [segment_of(self.blocks, n) for n, block in enumerate(self.blocks) if block.enters]

    def batches(self) -> Iterator[Inputs]:
        """Yield what the model is run on, a batch at a time."""
        return (completed(self.model, batch) for batch in self.known.batches())

    def inputs(self, numbers: Tensor) -> Inputs:
        """Return what the model is run on for samples by their numbers; see :meth:`Calibration.inputs`."""
        return completed(self.model, self.known.inputs(numbers))

    def sample(self, number: int) -> Inputs:
        """Return what the model is run on for one sample."""
        return completed(self.model, self.known.sample(number))

    def settled(self) -> BlockwiseModel:
        """Return the same model, its samples run one by one where a batch of them cannot be taken apart.

        Such as where what blocks are handed depends on the sample.
        """
        if self.calibration is None or self.known.tokens is None or self.known.one_by_one:
            return self
        varies = len(self.segments) > 1 or any(block.site.gives for block in self.blocks)
        if not varies:
            table = ArgumentTable(ScratchSpace().cache, "probe", self.device)
            first = self.sample(0)
            with failures_named(self.model, first, self.known.length), self.entrance() as front, torch.no_grad():
                for number, flip in enumerate((False, True)):
                    entered = front({n: t.flip(1) if flip else t for n, t in first.items()})
                    table.add(number, entered.hidden, entered.arguments)
            # Samples that lie along another dimension of the hidden states cannot be taken apart along the first one.
            varies = table.varies or entered.hidden.shape[0] != 1
        return replace(self, calibration=replace(self.known, one_by_one=True)) if varies else self

    def cropped(self, samples: int | None, length: int | None) -> BlockwiseModel:
        """Return the same model with only the first calibration samples, and the first tokens of each."""
        return replace(self, calibration=self.known.cropped(samples, length), arguments={})

    def cache(self, name: str, number: int) -> TensorCache:
        """Return an empty cache for hidden states in front of block ``number``, in the model's dtype."""
        return self.scratch.cache(f"{name}-{number:05d}", self.dtype)

    @contextmanager
    def onload(self, index: int) -> Iterator[OnloadedModule]:
        """Give block ``index`` with its tensors on the device, and take them back at the end.

        The next one is read ahead meanwhile.
        """
        with self.weights.onload(self.blocks[index].module, self.device) as onloaded:
            for block in self.blocks[index + 1 : index + 2]:
                self.weights.read_ahead(block.module)
            yield onloaded

    def block_pass(self, index: int) -> BlockPass:
        """Return how block ``index``, which is onloaded, is run over hidden states."""
        block = self.blocks[index]
        return BlockPass(block.module, self.arguments[index], self.device, block.fixed)

    @contextmanager
    def entrance(self, first: int = 0) -> Iterator[Callable[..., Entered]]:
        """Give a function of inputs, and of earlier blocks' outputs: what the blocks from ``first`` on are handed.

        All that is outside of blocks is onloaded but for the head over the vocabulary, and block ``first`` if it must
        be run for that.
        """
        runs = self.blocks[first].hands_more
        skip = [block.module for n, block in enumerate(self.blocks) if not (runs and n == first)]
        with self.weights.onload(self.model, self.device, (*skip, self.model.get_output_embeddings())):
            yield lambda inputs, outputs=None: enter(
                self.model, self.blocks, first, self.moved(inputs), _moved(outputs or {}, self.device, self.compute)
            )

    def moved(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return inputs of the model where it is run, without the labels of its loss."""
        return inputs_on(self.device, {n: t for n, t in inputs.items() if n != LABELS}, self.compute)

    def enter(
        self, first: int = 0, taps: Taps | None = None, *, name: str = "measured", sizes: Sequence[int] = ()
    ) -> HiddenStates:
        """Return the hidden states in front of a segment, and find out how its blocks are called.

        Args:
            first: number of the first block of the segment.
            taps: hidden states behind earlier blocks, of those that are tapped.
            name: of the hidden states.
            sizes: of batches that will be run too, beside those of the calibration; of rows of tokens.
        """
        stream = self.cache(name, first)
        table = ArgumentTable(self.scratch.cache, f"{name}-{first:05d}", self.device)
        with self.entrance(first) as front, torch.no_grad():
            for inputs in self._of_sizes(sizes):
                entered = front(inputs)
                table.add(None, entered.hidden, entered.arguments)
            for number, inputs in enumerate(self.batches()):
                entered = front(inputs, {block: batches[number] for block, batches in (taps or {}).items()})
                table.add(number, entered.hidden, entered.arguments)
                stream.append(entered.hidden)
        for place, block in enumerate(segment_of(self.blocks, first)):
            self.arguments[block] = Arguments(table, place, block)
        return stream

    def _of_sizes(self, sizes: Sequence[int]) -> Iterator[Inputs]:
        """Yield inputs of batches of some sizes, where what blocks are handed depends on nothing else."""
        tokens = self.known.tokens
        if tokens is None or self.known.one_by_one:
            return
        for size in sorted(set(sizes) - {self.known.at_once}):
            yield {"input_ids": tokens[:1].expand(size, -1)}

    def advance(self, index: int, stream: HiddenStates, name: str = "measured") -> TensorCache:
        """Return the hidden states behind block ``index``, which is onloaded, from those in front of it."""
        behind = self.cache(f"{name}-behind" if self.ends(index) else name, index + 1)
        advance(self.block_pass(index), stream, behind)
        return behind

    def ends(self, index: int) -> bool:
        """Return whether the next block is not just handed what this one gives."""
        return index + 1 < len(self.blocks) and self.blocks[index + 1].enters

    def draws(self) -> Iterator[torch.Generator]:
        """Yield, for each of the own samples, what labels of it are drawn with if they are.

        Where samples are rows of tokens they are those that one process draws, in whatever process a row is.
        """
        known = self.known
        if known.share[1] == 1:
            yield from itertools.repeat(torch.Generator().manual_seed(self.seed))
        generator = torch.Generator().manual_seed(self.seed)
        seeds = torch.randint(MAX_SEED, (len(known),), generator=generator).tolist()
        generator.manual_seed(self.seed)
        own = set(known.own)
        for number, seed in enumerate(seeds):
            if known.tokens is None or not self.predicts_next:
                if number in own:
                    yield generator.manual_seed(seed)
            elif number in own:
                yield generator
            else:
                torch.rand(known.length, 1, generator=generator)  # what the row takes, where it is

    def whole(self) -> BlockwiseModel:
        """Return the same model, all whose samples are run here."""
        return replace(self, calibration=self.known.shared(0, 1), arguments={})

    def batch(self, number: int) -> BlockwiseModel:
        """Return the same model with the calibration samples of one batch only."""
        return replace(self, calibration=self.known.batch(number), arguments={})

    def forward(
        self, around: Callable[[Block], AbstractContextManager[object]] = lambda block: nullcontext()
    ) -> Streams:
        """Return the hidden states in front of each block and behind each.

        Args:
            around: is entered around the run of each block, which is onloaded.
        """
        streams = Streams()
        for index, block in enumerate(self.blocks):
            if block.enters:
                streams.fronts.append(self.enter(index, self.taps(streams.behinds)))
            else:
                streams.fronts.append(streams.behinds[-1])
            with self.onload(index), around(block):
                streams.behinds.append(self.advance(index, streams.fronts[-1]))
        return streams

    def taps(self, behinds: Sequence[HiddenStates]) -> dict[int, HiddenStates]:
        """Return the hidden states that are tapped, of those behind the first blocks."""
        return {n: stream for n, stream in enumerate(behinds) if self.blocks[n].tapped}

    def ends_of(self, behinds: Sequence[HiddenStates]) -> dict[int, HiddenStates]:
        """Return what the head looks at, of the hidden states behind all blocks."""
        return {**self.taps(behinds), len(self.blocks) - 1: behinds[-1]}

    def mean_losses(self, ends: Sequence[Sequence[Tensor] | Mapping[int, Sequence[Tensor]]]) -> list[float]:
        """Return the mean loss of a prediction, in nats, of each of several models by what their blocks gave.

        Args:
            ends: hidden states behind the last block; by block, where others are tapped, with those.
        """
        losses: list[tuple[float, int]] = []
        last = len(self.blocks) - 1
        with self.head() as head, torch.no_grad():
            for end in ends:
                streams = end if isinstance(end, Mapping) else {last: end}
                total, count = 0.0, 0
                draws = self.draws()
                for number, inputs in enumerate(self.batches()):
                    behind = {n: stream[number] for n, stream in streams.items()}
                    for row, hidden in rows_of(inputs, behind, self.known.at_once):
                        output = head(row, self._placed(hidden))
                        loss, made = model_loss(output, row, generator=next(draws), predicts_next=self.predicts_next)
                        total, count = total + float(loss), count + made
                losses.append((total, count))
        sums = processes.total(*(number for pair in losses for number in pair))
        return [total / max(count, 1) for total, count in zip(sums[::2], sums[1::2], strict=True)]

    def mean_divergences(
        self, reference: Taps, ends: Sequence[Taps], *, temperature: float = 1.0, first: int = 0
    ) -> list[float]:
        """Return how far predictions are from those of a reference, a prediction, by what blocks gave, in nats.

        Args:
            reference: hidden states behind the last block, and behind those that are tapped, by block.
            ends: the same of each of several models.
            temperature: see :func:`eckart.blocks.losses.divergence`, like ``first``.
            first: place in a sequence that counts.
        """
        totals, count = [0.0 for _ in ends], 0
        with self.head() as head, torch.no_grad():
            for number, inputs in enumerate(self.batches()):
                # Those of one sample side by side, so that logits of the reference are made once, and not kept.
                sides = [
                    rows_of(inputs, {n: stream[number] for n, stream in end.items()}, self.known.at_once)
                    for end in (reference, *ends)
                ]
                for (row, hidden), *others in zip(*sides, strict=True):
                    theirs, made = head(row, self._placed(hidden)), 0
                    for place, (_, other) in enumerate(others):
                        loss, made = divergence(
                            head(row, self._placed(other)),
                            theirs,
                            row,
                            predicts_next=self.predicts_next,
                            temperature=temperature,
                            first=first,
                        )
                        totals[place] += float(loss)
                    count += made
        *sums, predictions = processes.total(*totals, count)
        return [total / max(predictions, 1) for total in sums]

    def _placed(self, hidden: Mapping[int, Tensor]) -> dict[int, Tensor]:
        return {n: t.to(self.device, self.model.dtype) for n, t in hidden.items()}

    @contextmanager
    def head(self) -> Iterator[Callable[[Inputs, Mapping[int, Tensor]], Any]]:
        """Give a function of inputs, and of hidden states behind blocks, that returns what the model returns.

        Those behind the last block must be among them, and those that are tapped. No block is run.
        """
        with self.weights.onload(self.model, self.device, skip=tuple(self.modules)):
            yield lambda inputs, outputs: run_outside(self.model, self.blocks, self.moved(inputs), outputs)


def rows_of(
    inputs: Inputs, behind: Mapping[int, Tensor], at_once: int
) -> list[tuple[dict[str, Tensor], dict[int, Tensor]]]:
    """Return the samples of a batch one by one, since logits are large.

    Args:
        inputs: of the batch.
        behind: hidden states of it, by block.
        at_once: samples that are run at once.
    """
    if at_once == 1:
        return [(dict(inputs), dict(behind))]
    count = len(next(iter(inputs.values())))
    return [
        ({k: t[row : row + 1] for k, t in inputs.items()}, {n: t[row : row + 1] for n, t in behind.items()})
        for row in range(count)
    ]


def _moved(outputs: Mapping[int, Tensor], device: torch.device, dtype: torch.dtype) -> dict[int, Tensor]:
    return {number: tensor.to(device, dtype) for number, tensor in outputs.items()}
