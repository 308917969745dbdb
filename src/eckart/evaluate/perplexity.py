"""Perplexity by the protocol of the papers: one token stream, non-overlapping windows, no overlap, no padding."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pydantic import BaseModel
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from eckart.errors import EckartError


class Perplexity(BaseModel):
    """A measured perplexity and what it was measured on.

    Attributes:
        perplexity: ``exp`` of the mean next-token loss over all windows.
        log_perplexity: that mean, in nats a token.
        windows: how many.
        length: tokens in each; the first of each window is not predicted.
    """

    perplexity: float
    log_perplexity: float
    windows: int
    length: int


def perplexity(
    model: PreTrainedModel,
    ids: Tensor,
    *,
    length: int = 2048,
    windows: int | None = None,
    on_window: Callable[[int, int], None] = lambda done, total: None,
) -> Perplexity:
    """Measure the perplexity of ``model`` on a stream of tokens.

    Args:
        model: a causal language model.
        ids: (tokens,) int64, the whole text.
        length: tokens in a window.
        windows: take only the first ones; None takes all.
        on_window: is called with (done, total) after each window.

    Raises:
        EckartError: the text is shorter than one window, or the loss is not finite.
    """
    available = len(ids) // length
    count = available if windows is None else min(windows, available)
    if count < 1 or length < 2:
        raise EckartError(
            f"The text has {len(ids)} tokens, and one window is {length}. Use a longer text or a shorter --length."
        )
    total = 0.0
    model.eval()
    with torch.no_grad():
        for index in range(count):
            window = ids[None, index * length : (index + 1) * length].to(model.device)
            logits = model(input_ids=window, use_cache=False).logits[0, :-1]
            total += float(functional.cross_entropy(logits.float(), window[0, 1:]))
            on_window(index + 1, count)
    loss = total / count
    if not math.isfinite(loss):
        raise EckartError("The loss is NaN or infinite: the model gives no usable logits on this text.")
    return Perplexity(perplexity=math.exp(min(loss, 700.0)), log_perplexity=loss, windows=count, length=length)
