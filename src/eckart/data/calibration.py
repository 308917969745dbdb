"""Text to calibration tokens: samples of one length, drawn with a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eckart.data.context import check_ids, check_length, length_for
from eckart.data.draw import draw_samples, tokenize
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
    """The tokens that a model is calibrated on.

    Attributes:
        tokens: (samples, length) int64, on the CPU.
        source: what they were drawn from.
        seed: of the draw.
    """

    tokens: Tensor
    source: str
    seed: int

    def batches(self) -> Iterator[Tensor]:
        """Yield the samples in order, (batch, length) at a time."""
        size = max(1, BATCH_TOKENS // self.tokens.shape[1])
        yield from torch.split(self.tokens, size)

    @property
    def record(self) -> CalibrationRecord:
        """What is stored of it in the result."""
        samples, length = self.tokens.shape
        return CalibrationRecord(
            source=text_name(self.source),
            samples=samples,
            length=length,
            tokens=samples * length,
            seed=self.seed,
            sha256=hashlib.sha256(self.tokens.numpy().astype("<i8").tobytes()).hexdigest(),
        )


def calibrate(
    source: str | Tensor,
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
            several of these with `` + `` between them, or token ids (samples, length) to use as they are.
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
    if not isinstance(source, str):
        raise CalibrationError(
            "Calibration is the name of a text, 'self', or a tensor of token ids of shape (samples, length); found "
            f"{type(source).__name__}."
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
