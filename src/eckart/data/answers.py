"""Which tokens of a sample are the answer: labels, and what a separate decoder is handed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IGNORED = -100  # a label that does not count


def labels_from(ids: Tensor, spans: Iterable[tuple[int, int]]) -> Tensor:
    """Return labels, (1, length) int64, that count inside of spans only.

    Args:
        ids: (1, length) int64.
        spans: first token, and the one behind the last.
    """
    labels = torch.full_like(ids, IGNORED)
    for start, end in spans:
        labels[:, start:end] = ids[:, start:end]
    return labels


def shared_prefix(whole: Tensor, part: Tensor) -> int:
    """Return how many tokens two texts begin with alike, both (length,) int64."""
    length = min(len(whole), len(part))
    other = (whole[:length] != part[:length]).nonzero()
    return int(other[0]) if len(other) else length


def decoder_inputs(model: PreTrainedModel, labels: Tensor | None) -> Tensor:
    """Return what a separate decoder reads while it writes ``labels``, (1, length) int64: one token later, a start.

    Args:
        model: an encoder-decoder.
        labels: (1, length) int64; None for the start alone.
    """
    start = torch.tensor([[_first(model, ("decoder_start_token_id", "bos_token_id", "pad_token_id"))]])
    if labels is None:
        return start
    padding = _first(model, ("pad_token_id", "eos_token_id"))
    return torch.cat([start, labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED, padding)], dim=1)


def _first(model: PreTrainedModel, names: tuple[str, ...]) -> int:
    """Return the first token of those names that the model's settings have; of several of a name, the first."""
    places: list[Any] = [model.config, getattr(model, "generation_config", None), model.config.get_text_config()]
    for name in names:
        for place in places:
            value = getattr(place, name, None)
            value = value[0] if isinstance(value, list) and value else value
            if isinstance(value, int) and value >= 0:
                return value
    return 0
