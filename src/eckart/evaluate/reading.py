"""What a model makes of one item: predictions where it has an answer, hidden states, and vectors for the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eckart.data.answers import IGNORED
from eckart.data.processor import Inputs
from eckart.data.samples import Sample
from eckart.errors import EckartError
from eckart.kinds import Answers, answers_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

POOLINGS = ("mean", "first", "last")


@dataclass(frozen=True)
class Reading:
    """What a model makes of one item; None where it makes no such thing.

    Attributes:
        logits: (tokens, classes), of the answer if there is one, else of all tokens.
        targets: (tokens,) int64, the answer itself; -100 nowhere.
        hidden: (tokens, width), behind the last block, or of the first output that there is.
        vectors: one or more for the whole item, (width,) each.
    """

    logits: Tensor | None
    targets: Tensor | None
    hidden: Tensor | None
    vectors: tuple[Tensor, ...]


def read_item(model: PreTrainedModel, sample: Sample, *, pooling: str = "mean", states: bool = False) -> Reading:
    """Return what a model makes of one item.

    Args:
        model: of transformers.
        sample: as :func:`eckart.data.sampling.read_samples` gives it.
        pooling: of hidden states to a vector: the mean of those that are not padding, as sentence-transformers does
            it, the first or the last.
        states: hidden states are needed.

    Raises:
        EckartError: the model fails on it.
    """
    inputs = Inputs.of(model)
    given = placed(model, {name: value for name, value in sample.items() if name != "labels"})
    options: dict[str, Any] = {"use_cache": False} if "use_cache" in inputs.names else {}
    if states:
        options["output_hidden_states"] = True
    try:
        output = model(**given, **options)
    except (IndexError, RuntimeError, ValueError, TypeError) as error:
        raise EckartError(f"{type(model).__name__} cannot take an item with {_shapes(sample)}: {error}") from error
    labels = sample.get("labels")
    logits, targets = _answer(model, output, labels)
    hidden = _hidden(output, logits)
    return Reading(logits, targets, hidden, tuple(_vectors(output, hidden, given.get("attention_mask"), pooling)))


def placed(model: PreTrainedModel, sample: Sample) -> dict[str, Tensor]:
    """Return a sample where the model is, its numbers in the model's dtype."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        for name, value in sample.items()
    }


def _answer(model: PreTrainedModel, output: Any, labels: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    logits = getattr(output, "logits", None)
    if logits is None:
        starts, ends = getattr(output, "start_logits", None), getattr(output, "end_logits", None)
        return (None, None) if starts is None or ends is None else (torch.cat([starts, ends]).float(), None)
    answers = answers_of(model)
    logits = logits.reshape(-1, logits.shape[-1])
    if labels is None or answers is Answers.NONE:
        return logits, None
    labels = labels.to(logits.device).reshape(-1)
    if answers is Answers.ALIGNED:
        return logits, labels
    if answers is Answers.NEXT:
        logits, labels = logits[:-1], labels[1:]
    if len(logits) != len(labels):
        raise EckartError(
            f"{type(model).__name__} predicts {len(logits)} tokens where the item has {len(labels)}: its answer cannot "
            "be found among them."
        )
    there = labels != IGNORED
    return logits[there], labels[there]


def _hidden(output: Any, logits: Tensor | None) -> Tensor | None:
    for name in ("last_hidden_state", "hidden_states", "decoder_hidden_states"):
        found = getattr(output, name, None)
        found = found[-1] if isinstance(found, tuple) and found else found
        if isinstance(found, Tensor):
            return _rows(found)
    first = next((v for v in _tensors(output) if v.is_floating_point() and v.ndim), None)
    return logits if first is None else _rows(first)


def _rows(states: Tensor) -> Tensor:
    # Feature maps have their channels in front.
    states = states.movedim(1, -1) if states.ndim == 4 else states
    return states.reshape(-1, states.shape[-1])


def _vectors(output: Any, hidden: Tensor | None, mask: Tensor | None, pooling: str) -> list[Tensor]:
    named = [getattr(output, name, None) for name in ("text_embeds", "image_embeds", "audio_embeds")]
    embeds = [value.reshape(-1, value.shape[-1])[0] for value in named if isinstance(value, Tensor)]
    if embeds or hidden is None:
        return embeds
    if mask is not None and mask.numel() == len(hidden):
        hidden = hidden[mask.reshape(-1).bool()]
    if pooling == "first":
        return [hidden[0]]
    return [hidden[-1] if pooling == "last" else hidden.float().mean(dim=0)]


def _tensors(output: Any) -> list[Tensor]:
    values = output.values() if isinstance(output, Mapping) else ()
    return [value for value in values if isinstance(value, Tensor)]


def _shapes(sample: Sample) -> str:
    return ", ".join(f"{name} {tuple(value.shape)}" for name, value in sample.items())
