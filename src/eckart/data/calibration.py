"""What a model is calibrated on: samples of one length drawn from a text, or samples of any kind."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eckart.data.context import check_ids, check_length, length_for
from eckart.data.samples import IDS, Sample, as_samples
from eckart.data.text import parts_of, read_text, text_name
from eckart.device import free_memory
from eckart.errors import CalibrationError
from eckart.files.field_types import Count, Whole

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
    """

    tokens: Tensor | None
    source: str
    seed: int
    items: tuple[Sample, ...] = ()
    one_by_one: bool = False

    def __len__(self) -> int:
        return len(self.items) if self.tokens is None else len(self.tokens)

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

    def batches(self) -> Iterator[Sample]:
        """Yield the inputs of the model for the samples in order, :attr:`at_once` of them at a time."""
        if self.tokens is None:
            yield from self.items
        else:
            yield from ({IDS: part} for part in torch.split(self.tokens, self.at_once))

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
        """Return the samples of one batch."""
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
    tokenizer: PreTrainedTokenizerBase | None = None,
    model: PreTrainedModel | None = None,
) -> Calibration:
    """Return calibration tokens.

    Args:
        source: a specification that :func:`eckart.data.text.read_text` knows, ``self`` for text sampled from the model,
            several of these with `` + `` between them, token ids (samples, length) to use as they are, or samples:
            what the model's forward is handed for each, with ``labels`` where its loss is asked for.
        samples: how many to draw; of several texts the same number each (of one that is named twice, twice as many).
        length: tokens in each; None for :data:`DEFAULT_LENGTH`, or the model's context if that is shorter.
        seed: of the draw.
        tokenizer: of the model; not needed for ``self`` and for token ids.
        model: needed for ``self`` and to bound the length by the model's context.

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


def tokenize(text: str, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Return the token ids of a whole text, (tokens,) int64, with the special tokens that the tokenizer adds to it."""
    ids = tokenizer(text, return_attention_mask=False, verbose=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.int64)


def draw_samples(ids: Tensor, samples: int, length: int, seed: int, source: str) -> Tensor:
    """Cut ``samples`` windows out of a stream of tokens.

    Without replacement from the stream cut into windows, so that no token is drawn twice. Where the stream is too
    short for that, from random offsets, so that windows overlap.

    Args:
        ids: (tokens,) int64.
        samples: how many windows.
        length: tokens in each.
        seed: of the draw.
        source: the text's name, for the error.

    Returns:
        (samples, length) int64.
    """
    if len(ids) < length:
        raise CalibrationError(
            f"The text {source!r} is too short: {len(ids)} tokens, and one sample is {length}. "
            f"Use a longer text or --length {max(2, len(ids))} at most."
        )
    generator = torch.Generator().manual_seed(seed)
    windows = len(ids) // length
    if windows >= samples:
        starts = torch.randperm(windows, generator=generator)[:samples] * length
    else:
        starts = torch.randint(len(ids) - length + 1, (samples,), generator=generator)
    return ids.unfold(0, length, 1)[starts]


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
