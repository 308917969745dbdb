"""Perplexity by the protocol of the papers: one token stream, non-overlapping windows, no overlap, no padding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional

from eckart.errors import EckartError
from eckart.evaluate.caches import CacheKind
from eckart.evaluate.pieces import PieceReader
from eckart.evaluate.windows import (
    count_windows,
    length_of_windows,
    logits_of,
    mean_and_error,
    of_all_windows,
    windows_of,
)
from eckart.files.field_types import Count
from eckart.processes import size

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LARGEST_LOSS = 700.0  # nats whose exponential is a number


class Perplexity(BaseModel):
    """A measured perplexity and what it was measured on.

    Attributes:
        perplexity: ``exp`` of the mean next-token loss over all windows.
        log_perplexity: that mean, in nats a token.
        error: standard error of that mean over windows; None if there is only one.
        windows: how many.
        length: tokens in each; the first of each window is not predicted.
        cache: which the model read from; None where it was handed whole windows.
        piece: tokens that it was handed at once.
        cache_token_bytes: what the cache held, in bytes a token, measured on its tensors.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    perplexity: float
    log_perplexity: float
    error: float | None
    windows: Count
    length: Count
    cache: str | None = None
    piece: Count | None = None
    cache_token_bytes: float | None = None


def perplexity(
    model: PreTrainedModel,
    ids: Tensor,
    *,
    length: int | None = None,
    windows: int | None = None,
    cache: CacheKind | None = None,
    piece: int = 64,
    on_window: Callable[[int, int], None] = lambda done, total: None,
) -> Perplexity:
    """Measure the perplexity of ``model`` on a stream of tokens.

    Args:
        model: a causal language model.
        ids: (tokens,) int64, the whole text.
        length: tokens in a window; by default 2048, or the model's context if that is shorter.
        windows: take only the first ones; None takes all.
        cache: which the model reads from while it is handed windows in pieces; None for whole windows, without one.
        piece: tokens that it is handed at once, where there is a cache.
        on_window: is called with (done, total) after each window.

    Raises:
        EckartError: the text is shorter than one window, the model cannot take the windows or the ids, or the loss is
            not finite.
    """
    length = length_of_windows([model], ids, length)
    count = count_windows(ids, length, windows)
    losses = []
    model.eval()
    reader = None if cache is None else PieceReader(model, cache, piece)
    with torch.no_grad():
        for window in windows_of(ids, length, windows):
            logits = (reader or logits_of)(model, window)[:-1]
            losses.append(float(functional.cross_entropy(logits.float(), window[0, 1:].to(logits.device))))
            on_window(min(count, len(losses) * size()), count)
    loss, error = mean_and_error(of_all_windows(losses, count))
    if not math.isfinite(loss):
        raise EckartError("The loss is NaN or infinite: the model gives no usable logits on this text.")
    found = Perplexity(perplexity=perplexity_of(loss), log_perplexity=loss, error=error, windows=count, length=length)
    if reader is None:
        return found
    return found.model_copy(update={"cache": str(cache), "piece": piece, "cache_token_bytes": reader.token_bytes})


def perplexity_of(loss: float) -> float:
    """Return the perplexity of a mean loss in nats, and the largest that can be written where that is none."""
    return math.exp(min(loss, LARGEST_LOSS))
