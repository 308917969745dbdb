"""A text to tokens, and windows drawn from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eckart.errors import CalibrationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
