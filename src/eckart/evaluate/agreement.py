"""How far a model's predictions are from those of another one, token by token, whatever the text's next token is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel
from torch import Tensor

from eckart.errors import EckartError
from eckart.evaluate.windows import (
    count_windows,
    length_of_windows,
    logits_of,
    mean_and_error,
    of_all_windows,
    windows_of,
)
from eckart.processes import size

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS = 256  # tokens whose distributions over the vocabulary are compared at once


class Agreement(BaseModel):
    """How well a model agrees with a baseline.

    Attributes:
        divergence: ``KL(p || q)`` of the next-token distributions, p the baseline's and q the model's: nats, mean over
            all tokens.
        divergence_error: standard error of that over windows; None if there is only one.
        top_1: share of tokens after which both find the same token most likely.
        top_1_error: standard error of that.
        windows: how many.
        length: tokens in each.
    """

    divergence: float
    divergence_error: float | None
    top_1: float
    top_1_error: float | None
    windows: int
    length: int


def agreement(
    model: PreTrainedModel,
    baseline: PreTrainedModel,
    ids: Tensor,
    *,
    length: int | None = None,
    windows: int | None = None,
    on_window: Callable[[int, int], None] = lambda done, total: None,
) -> Agreement:
    """Compare the next-token distributions of two models of one vocabulary.

    Args:
        model: a causal language model.
        baseline: the one that it should be like.
        ids: (tokens,) int64, the whole text.
        length: tokens in a window; by default 2048, or the context of the models if that is shorter.
        windows: take only the first ones; None takes all.
        on_window: is called with (done, total) after each window.

    Raises:
        EckartError: the text is shorter than one window, a model cannot take the windows or the ids, the vocabularies
            differ in size, or logits are not finite.
    """
    length = length_of_windows([model, baseline], ids, length)
    count = count_windows(ids, length, windows)
    divergences, matches = [], []
    model.eval()
    baseline.eval()
    with torch.inference_mode():
        for window in windows_of(ids, length, windows):
            ours = logits_of(model, window)
            theirs = logits_of(baseline, window).to(ours.device)
            if ours.shape != theirs.shape:
                raise EckartError(
                    f"The model predicts {ours.shape[-1]} tokens and the baseline {theirs.shape[-1]}; expected models "
                    "of one vocabulary."
                )
            divergence, same = compare(ours, theirs)
            if not math.isfinite(divergence):
                raise EckartError("A prediction is NaN or infinite: one of the models gives no usable logits here.")
            divergences.append(divergence)
            matches.append(same)
            on_window(min(count, len(matches) * size()), count)
    divergence, divergence_error = mean_and_error(of_all_windows(divergences, count))
    top_1, top_1_error = mean_and_error(of_all_windows(matches, count))
    return Agreement(
        divergence=divergence,
        divergence_error=divergence_error,
        top_1=top_1,
        top_1_error=top_1_error,
        windows=count,
        length=length,
    )


def compare(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """Return the mean divergence and the share of equal choices, of logits (tokens, classes) of two models."""
    divergence, same = 0.0, 0
    for q, p in zip(torch.split(ours, ROWS), torch.split(theirs, ROWS), strict=True):
        log_q, log_p = q.float().log_softmax(dim=-1), p.float().log_softmax(dim=-1)
        divergence += float((log_p.exp() * (log_p - log_q)).sum())
        same += int((q.argmax(dim=-1) == p.argmax(dim=-1)).sum())
    return divergence / len(ours), same / len(ours)
