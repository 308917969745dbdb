"""Plain text to samples: windows of one length, as each kind of model reads text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eckart.data.answers import IGNORED, decoder_inputs
from eckart.data.context import check_ids
from eckart.data.draw import draw_samples, tokenize
from eckart.data.processor import Inputs, Processor
from eckart.data.text import read_text
from eckart.errors import CalibrationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASKED = 0.15  # of the tokens, as encoders are trained
CHARACTERS = 8  # of a stream, for each token: more than most languages take
PROBE = "a"


def read_windows(
    source: str, inputs: Inputs, processor: Processor, samples: int, length: int, seed: int
) -> list[dict[str, Tensor]]:
    """Return windows of a text.

    - A decoder reads a window as it is, (1, length).
    - An encoder-decoder reads the first half of one, and its answer is the second.
    - An encoder reads a window between the special tokens that its tokenizer puts around a text. Where it has a head
      for masked tokens, some of the tokens are masked, and these are the labels.

    Args:
        source: that :func:`eckart.data.text.read_text` knows.
        inputs: what the model takes.
        processor: of it.
        samples: how many windows.
        length: tokens in each.
        seed: of the draw, and of what is masked.

    Raises:
        CalibrationError: no such text, or too little of it; the model reads no text alone.
    """
    model = inputs.model
    if not inputs.text_alone:
        reads = " and ".join(name for name, there in (("images", inputs.images), ("sound", inputs.sounds)) if there)
        raise CalibrationError(
            f"{type(model).__name__} reads {reads or 'no text'}, and {source!r} is text. Expected a folder of such "
            "files, FILE.jsonl with their paths, or dataset:NAME:SPLIT."
        )
    tokenizer = processor.need("tokenizer", "text")
    text = read_text(source, enough=samples * length * CHARACTERS)
    writes = inputs.kind.writes
    before, after = ([], []) if writes else _around(tokenizer)
    inner = length - len(before) - len(after)
    if inner < (2 if inputs.separate_decoder else 1):
        raise CalibrationError(f"Samples of {length} tokens leave no room for text. Use a longer --length.")
    ids = (
        tokenize(text, tokenizer)
        if writes
        else torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=torch.int64)
    )
    check_ids(model, ids, f"The text {source!r}", CalibrationError)
    windows = draw_samples(ids, samples, inner, seed, source)
    frame = [torch.tensor(tokens, dtype=torch.int64) for tokens in (before, after)]
    framed = [torch.cat([frame[0], window, frame[1]]) for window in windows]
    if inputs.separate_decoder:
        return [_halves(inputs, window) for window in framed]
    if inputs.kind.name != "masked":
        return [{"input_ids": window[None]} for window in framed]
    generator = torch.Generator().manual_seed(seed)
    return [_masked(window[None], tokenizer.mask_token_id, len(before), inner, generator) for window in framed]


def _halves(inputs: Inputs, window: Tensor) -> dict[str, Tensor]:
    read, written = window[None, : len(window) // 2], window[None, len(window) // 2 :]
    sample = {"input_ids": read, "decoder_input_ids": decoder_inputs(inputs.model, written)}
    return {**sample, "labels": written} if inputs.kind.writes else sample


def _masked(ids: Tensor, mask: int | None, start: int, inner: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return a window, (1, length), of which some tokens are masked; without a token for that, as it is."""
    if mask is None:
        return {"input_ids": ids}
    count = max(1, round(MASKED * inner))
    places = start + torch.randperm(inner, generator=generator)[:count]
    labels = torch.full_like(ids, IGNORED)
    labels[0, places] = ids[0, places]
    hidden = ids.clone()
    hidden[0, places] = mask
    return {"input_ids": hidden, "labels": labels}


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the special tokens that a tokenizer puts in front of a text and behind it."""
    inside = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    whole = tokenizer(PROBE)["input_ids"]
    for start in range(len(whole) - len(inside) + 1):
        if whole[start : start + len(inside)] == inside:
            return whole[:start], whole[start + len(inside) :]
    return [], []
