"""Tokens a second that transformers writes with a model alone, and with a draft beside it."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel
from torch import Tensor

from eckart.device import synchronize
from eckart.errors import EckartError
from eckart.files.field_types import Count

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Generation(BaseModel):
    """What was measured with ``generate(assistant_model=draft)``.

    Attributes:
        alone: tokens a second of the model, the median over texts and rounds.
        with_draft: the same, with the draft.
        texts: that were continued.
        same: of them, how many were continued by the same tokens.
    """

    alone: float
    with_draft: float
    texts: Count
    same: Count


def set_proposals(draft: PreTrainedModel, proposals: int) -> None:
    """Let a draft say itself how many tokens it proposes in a round, so that no user of it has to."""
    config = draft.generation_config
    config.num_assistant_tokens = proposals
    config.num_assistant_tokens_schedule = "constant"
    config.assistant_confidence_threshold = 0.0  # a round ends with its last proposal, as it was measured


def measure_generation(
    model: PreTrainedModel,
    draft: PreTrainedModel,
    prompts: Tensor,
    tokens: int,
    *,
    repeats: int = 3,
    on_run: Callable[[int, int], None] = lambda done, total: None,
) -> Generation:
    """Return how fast a model writes alone and with a draft, in turn, and whether it writes the same.

    Args:
        model: in evaluation mode.
        draft: of one vocabulary with it.
        prompts: (texts, length) int64.
        tokens: to write behind each.
        repeats: rounds; the one before them does not count.
        on_run: is called with (done, total).

    Raises:
        EckartError: transformers cannot use the draft.
    """
    seconds: dict[bool, list[float]] = {False: [], True: []}
    same, done, total = 0, 0, (repeats + 1) * len(prompts)
    for round_ in range(repeats + 1):
        for prompt in prompts:
            written = []
            for with_draft in (False, True):
                start = perf_counter()
                written.append(_write(model, prompt[None], tokens, draft if with_draft else None))
                if round_:
                    seconds[with_draft].append(perf_counter() - start)
            same += round_ == 0 and torch.equal(*written)
            done += 1
            on_run(done, total)
    return Generation(
        alone=tokens / median(seconds[False]),
        with_draft=tokens / median(seconds[True]),
        texts=len(prompts),
        same=same,
    )


def _write(model: PreTrainedModel, prompt: Tensor, tokens: int, draft: PreTrainedModel | None) -> Tensor:
    """Return what a model writes most likely behind a prompt, (tokens,) int64."""
    ids = prompt.to(model.device)
    options: dict[str, Any] = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
    try:
        found: Tensor = model.generate(ids, attention_mask=torch.ones_like(ids), assistant_model=draft, **options)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise EckartError(f"transformers cannot use a draft of {type(model).__name__}: {error}") from error
    synchronize(model.device)
    return found[0, ids.shape[1] :].cpu()
