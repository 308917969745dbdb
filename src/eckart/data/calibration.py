"""What a model is calibrated on: samples of one length drawn from a text, or samples of any kind."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from eckart.data.context import check_ids, check_length, length_for
from eckart.data.draw import draw_samples, tokenize
from eckart.data.encoder import Encoder
from eckart.data.item_sources import find_items
from eckart.data.samples import IDS, MASK, Sample, as_samples
from eckart.data.sampling import holds_items, read_samples
from eckart.data.text import parts_of, read_text, text_name
from eckart.device import free_memory
from eckart.errors import CalibrationError
from eckart.files.field_types import Count, Whole
from eckart.kinds import CAUSAL, kind_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SELF = "self"
DEFAULT_SAMPLES, DEFAULT_LENGTH = 32, 1024
BATCH_TOKENS = 2048  # tokens in one forward pass of a block, about
OBJECT_BYTES = 500  # of a small tensor, about, beside its numbers
MAX_SEED = 2**53 - 1  # that every reader of the result's records can tell from its neighbours


class CalibrationRecord(BaseModel):
    """Where the calibration tokens came from. ``sha256`` is of the token ids as little-endian 64-bit integers."""

    model_config = ConfigDict(frozen=True)

    source: str
    samples: Count
    length: Count
    tokens: Count
    seed: Whole
    sha256: str


@dataclass(frozen=True)
class Calibration:
    """What a model is calibrated on.

    Attributes:
        tokens: (samples, length) int64, on the CPU; None if the samples are no rows of tokens.
        source: what they were drawn from.
        seed: of the draw.
        items: samples of any kind, in the place of tokens.
        one_by_one: whether samples are run one at a time, since what blocks are handed depends on them.
        share: number of the part of the samples that is run here, and of how many parts. All samples are known
            everywhere; what is kept of them while the model is run, such as hidden states, is where they are run.
    """

    tokens: Tensor | None
    source: str
    seed: int
    items: tuple[Sample, ...] = ()
    one_by_one: bool = False
    share: tuple[int, int] = (0, 1)

    def __len__(self) -> int:
        return len(self.items) if self.tokens is None else len(self.tokens)

    @property
    def ids(self) -> Tensor:
        """The rows of tokens, (samples, length) int64.

        Raises:
            CalibrationError: the samples are no such rows.
        """
        if self.tokens is None:
            raise CalibrationError("The calibration holds samples of any kind; expected rows of tokens.")
        return self.tokens

    @property
    def at_once(self) -> int:
        """How many samples are run at once."""
        if self.tokens is None or self.one_by_one:
            return 1
        return min(len(self), max(1, BATCH_TOKENS // self.tokens.shape[1]))

    @property
    def length(self) -> int:
        """Tokens in the longest sample; 1 if it has none."""
        return self.tokens.shape[1] if self.tokens is not None else max(map(_token_count, self.items))

    @property
    def token_count(self) -> int:
        """Tokens in all samples; a sample without tokens counts as one."""
        return self.tokens.numel() if self.tokens is not None else sum(map(_token_count, self.items))

    @cached_property
    def own(self) -> list[int]:
        """Numbers of the samples that are run here, in order.

        Batches are dealt out in turn, so that samples in a row, and the last ones too, are run by all. No batch is
        taken apart: its sums are those that one process has, to the last digit.
        """
        part, parts = self.share
        every = range(len(self))
        return [n for start in every[:: self.at_once][part::parts] for n in every[start : start + self.at_once]]

    @cached_property
    def _places(self) -> dict[int, int]:
        return {number: place for place, number in enumerate(self.own)}

    def places(self, numbers: Tensor) -> Tensor:
        """Return where samples are, by their numbers, among those that are run here; the others are left out."""
        if self.share[1] == 1:
            return numbers
        found = (self._places.get(number) for number in numbers.tolist())
        return torch.tensor([place for place in found if place is not None], dtype=torch.int64)

    def kept(self, numbers: Tensor) -> Tensor:
        """Return those of some samples, by their numbers, that are run here."""
        if self.share[1] == 1:
            return numbers
        return torch.tensor([n for n in numbers.tolist() if n in self._places], dtype=torch.int64)

    def shared(self, part: int, parts: int) -> Calibration:
        """Return the same samples, of which one part is run here; all of them, if there is one part."""
        return replace(self, share=(part, parts))

    def batches(self) -> Iterator[Sample]:
        """Yield the inputs of the model for its own samples in order, :attr:`at_once` of them at a time."""
        if self.tokens is None:
            yield from (self.items[number] for number in self.own)
        elif self.own:
            own = self.tokens if self.share[1] == 1 else self.tokens[self.own]
            yield from ({IDS: part} for part in torch.split(own, self.at_once))

    def inputs(self, numbers: Tensor) -> Sample:
        """Return the inputs of the model for samples by their numbers; for a single one where they are no rows."""
        if self.tokens is not None:
            return {IDS: self.tokens[numbers]}
        (number,) = numbers.tolist()
        return self.sample(number)

    def sample(self, number: int) -> Sample:
        """Return the inputs of the model for one sample."""
        return self.items[number] if self.tokens is None else {IDS: self.tokens[number : number + 1]}

    def batch(self, number: int) -> Calibration:
        """Return the samples of one batch of all."""
        start, end = number * self.at_once, (number + 1) * self.at_once
        if self.tokens is None:
            return replace(self, items=self.items[start:end])
        return replace(self, tokens=self.tokens[start:end])

    def cropped(self, samples: int | None, length: int | None) -> Calibration:
        """Return the first samples; of rows of tokens, the first tokens of each."""
        if self.tokens is None:
            return replace(self, items=self.items[:samples])
        return replace(self, tokens=self.tokens[:samples, :length])

    @property
    def record(self) -> CalibrationRecord:
        """What is stored of it in the result."""
        return CalibrationRecord(
            source=text_name(self.source),
            samples=len(self),
            length=self.length,
            tokens=self.token_count,
            seed=self.seed,
            sha256=self._sha256(),
        )

    def _sha256(self) -> str:
        if self.tokens is not None:
            return hashlib.sha256(self.tokens.numpy().astype("<i8").tobytes()).hexdigest()
        digest = hashlib.sha256()
        for item in self.items:
            for name in sorted(item):
                value = item[name]
                digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
                digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _token_count(item: Sample) -> int:
    return int(item[IDS].numel()) if IDS in item else 1


def calibrate(
    source: str | Tensor | Sequence[Sample],
    *,
    samples: int,
    length: int | None,
    seed: int,
    tokenizer: Any | None = None,
    model: PreTrainedModel | None = None,
    chat: bool = False,
) -> Calibration:
    """Return what a model is calibrated on.

    Args:
        source: a specification that :func:`eckart.data.text.read_text` knows or, for models that take more than text or
            predict something else than the next token, :func:`eckart.data.sampling.read_samples`; ``self`` for text
            sampled from the model; several of these with `` + `` between them. Or token ids (samples, length) to use as
            they are, or samples: what the model's forward is handed for each, with ``labels`` where its loss is asked
            for.
        samples: how many to draw; of several texts the same number each (of one that is named twice, twice as many).
        length: tokens in each; None for :data:`DEFAULT_LENGTH`, or the model's context if that is shorter.
        seed: of the draw.
        tokenizer: of the model, or its processor; not needed for ``self`` and for token ids.
        model: needed for ``self``, for samples of any kind, and to bound the length by the model's context.
        chat: write prompts and answers by the model's chat template.

    Raises:
        CalibrationError: no such text, too little of it, more samples than memory holds, or a seed, a length or ids
            that cannot be taken.
    """
    if not 0 <= seed <= MAX_SEED:
        raise CalibrationError(f"A seed is a whole number from 0 to {MAX_SEED}; found {seed}.")
    if isinstance(source, Tensor):
        return _of_ids(source, seed, model)
    if isinstance(source, Sequence) and not isinstance(source, str):
        return Calibration(None, "samples", seed, tuple(as_samples(source)))
    if not isinstance(source, str):
        raise CalibrationError(
            "Calibration is the name of a text, 'self', a tensor of token ids of shape (samples, length), or a list of "
            f"samples; found {type(source).__name__}."
        )
    if length is None:
        length = DEFAULT_LENGTH if model is None else length_for(model, default=DEFAULT_LENGTH)
    if samples < 1 or length < 2:
        raise CalibrationError(f"Calibration needs at least 1 sample of 2 tokens, found {samples} samples of {length}.")
    if model is not None:
        check_length(model, length, "Samples", "--length", CalibrationError)
    _check_memory(samples, length)
    texts = parts_of(source)
    if model is not None and SELF not in texts and reads_items(texts, tokenizer, model, length, chat=chat):
        return rows_if_alike(
            Calibration(
                None,
                source,
                seed,
                tuple(as_samples(read_samples(source, tokenizer, model, samples, seed, length, chat))),
            )
        )
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    if samples < len(texts):
        raise CalibrationError(f"{len(texts)} texts need as many samples, found {samples}. Use --samples {len(texts)}.")
    if SELF in texts and model is None:
        raise CalibrationError("Calibration on 'self' samples text from the model, and no model was given.")
    if tokenizer is None and set(texts) != {SELF}:
        raise CalibrationError(
            f"Calibration on {source!r} needs the model's tokenizer, and none was found. Pass tokenizer=, "
            "or token ids as calibration, or use 'self'."
        )
    # In turn, so that whoever looks at the first samples only, or at the last, sees all texts.
    order = [texts[number % len(texts)] for number in range(samples)]
    drawn: dict[str, Iterator[Tensor]] = {}
    for text in dict.fromkeys(texts):
        count = order.count(text)
        if text == SELF:
            assert model is not None
            drawn[text] = iter(sample_from_model(model, count, length, seed))
        else:
            assert tokenizer is not None
            ids = tokenize(read_text(text), tokenizer)
            if model is not None:
                check_ids(model, ids, f"The text {text!r}", CalibrationError)
            drawn[text] = iter(draw_samples(ids, count, length, seed, text))
    return Calibration(torch.stack([next(drawn[text]) for text in order]), source, seed)


def reads_items(
    texts: Sequence[str], processor: Any | None, model: PreTrainedModel, length: int, *, chat: bool
) -> bool:
    """Return whether sources are read item by item for a model, and not as rows of tokens."""
    if kind_of(model) is not CAUSAL:
        return True
    if processor is None:
        return False
    encoder = Encoder.of(model, processor, length, chat=chat)
    return any(holds_items(find_items(text), encoder) for text in texts)


def rows_if_alike(calibration: Calibration) -> Calibration:
    """Return samples as rows of tokens, which are run several at a time, if they are nothing else, of one length."""
    alike = {item[IDS].shape if IDS in item else None for item in calibration.items}
    names = {name for item in calibration.items for name in item}
    plain = all(bool((item[MASK] != 0).all()) for item in calibration.items if MASK in item)
    if None in alike or len(alike) != 1 or not plain or not names <= {IDS, MASK}:
        return calibration
    return replace(calibration, tokens=torch.cat([item[IDS] for item in calibration.items]), items=())


def _of_ids(ids: Tensor, seed: int, model: PreTrainedModel | None) -> Calibration:
    numbers = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool or ids.is_meta)
    if ids.ndim != 2 or not numbers or not ids.numel():
        raise CalibrationError(
            f"Calibration token ids must be integers of shape (samples, length), found {ids.dtype} "
            f"of shape {tuple(ids.shape)}{' without numbers (on meta)' if ids.is_meta else ''}."
        )
    ids = ids.cpu().to(torch.int64)
    if model is not None:
        check_length(model, ids.shape[1], "Samples", "a length of", CalibrationError)
        check_ids(model, ids, "The calibration", CalibrationError)
    return Calibration(ids, "token ids", seed)


def _check_memory(samples: int, length: int, beside: int = 0) -> None:
    """Raise if token ids alone, with so many bytes ``beside`` those of each sample, do not fit into memory."""
    # As they are drawn, and in their order; each is an object of its own in between.
    needed = samples * (2 * length * torch.int64.itemsize + OBJECT_BYTES + beside)
    free = free_memory(torch.device("cpu"))
    if needed > free:
        raise CalibrationError(
            f"{samples} samples of {length} tokens take {needed / 1e9:.1f} GB of memory before anything is computed, "
            f"and {free / 1e9:.1f} GB are free. Use fewer samples (--samples) or shorter ones (--length)."
        )


def sample_from_model(model: PreTrainedModel, samples: int, length: int, seed: int) -> Tensor:
    """Return text that the model itself writes at temperature 1, (samples, length) int64, beginning of text first."""
    config = model.config.get_text_config()
    # The logits of all samples, sorted and as probabilities.
    _check_memory(samples, length, 4 * torch.float32.itemsize * int(model.get_input_embeddings().weight.shape[0]))
    start = next((t for t in (config.bos_token_id, config.eos_token_id) if isinstance(t, int)), 0)
    prompt = torch.full((samples, 1), start, dtype=torch.int64, device=model.device)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        tokens = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            # An end of text is a token like any other here: what follows it is a new text.
            eos_token_id=None,
            pad_token_id=start,
            max_new_tokens=length - 1,
        )
    return cast(Tensor, tokens.cpu())
