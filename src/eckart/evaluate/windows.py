"""What all measurements on a text have in common: it is one stream of tokens, cut into windows without overlap."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from eckart.data.context import check_ids, check_length, length_for
from eckart.errors import EckartError
from eckart.kinds import is_encoder_decoder, kind_of
from eckart.processes import dealt, total

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DEFAULT_LENGTH = 2048  # tokens, as in the papers


def length_of_windows(models: Sequence[PreTrainedModel], ids: Tensor, length: int | None) -> int:
    """Return how many tokens a window has.

    Args:
        models: that will be run on it.
        ids: (tokens,) int64, the whole text.
        length: that is asked for; None for :data:`DEFAULT_LENGTH`, or what all models can take if that is less.

    Raises:
        EckartError: a model does not predict tokens, cannot take so many, or its embedding lacks some of the ids.
    """
    length = length_for(*models, default=DEFAULT_LENGTH) if length is None else length
    for model in models:
        check_predicts(model)
        check_length(model, length, "Windows", "--length")
        check_ids(model, ids, "The text")
    return length


def check_predicts(model: PreTrainedModel) -> None:
    """Raise if a model does not say what comes next in a text, so that it cannot be measured on one, or write.

    Raises:
        EckartError: says of which kind it is, and what to do instead.
    """
    kind = kind_of(model)
    if not kind.writes or is_encoder_decoder(model):
        raise EckartError(
            f"{type(model).__name__} is of the kind {kind.name!r}, which does not predict the next token of a text: "
            "streams of text, tasks, prompts and times of writing are nothing for it. Measure it on items, with "
            "`eckart eval --data` and a text, a folder, FILE.jsonl or dataset:NAME:SPLIT."
        )


def windows_of(ids: Tensor, length: int, windows: int | None) -> Iterator[Tensor]:
    """Yield windows, (1, length) int64: those that this process looks at.

    Args:
        ids: (tokens,) int64, the whole text.
        length: tokens in a window.
        windows: take only the first ones; None takes all.
    """
    for index in dealt(count_windows(ids, length, windows)):
        yield ids[None, index * length : (index + 1) * length]


def count_windows(ids: Tensor, length: int, windows: int | None, option: str = "--length") -> int:
    """Return how many windows there are, one or more.

    Args:
        ids: as for :func:`windows_of`, like the next two.
        length: tokens in a window.
        windows: take only the first ones.
        option: of the command that asks for the length, for the message.

    Raises:
        EckartError: the text is shorter than one, or none is asked for.
    """
    if windows is not None and windows < 1:
        raise EckartError(f"A measurement needs at least one window, found {windows}. Use --windows 1 or more.")
    available = len(ids) // length if length >= 2 else 0
    count = available if windows is None else min(windows, available)
    if count < 1:
        raise EckartError(
            f"The text has {len(ids)} tokens, and one window is {length}. Use a longer text or a shorter {option}."
        )
    return count


def logits_of(model: PreTrainedModel, window: Tensor) -> Tensor:
    """Return the logits of a window, (length, vocabulary), where the model is.

    Args:
        model: a causal language model.
        window: (1, length) int64.

    Raises:
        EckartError: the model fails, as where it has fewer positions than the window and its configuration does not
            say so.
    """
    try:
        logits: Tensor = model(input_ids=window.to(model.device), use_cache=False).logits[0]
    except (IndexError, RuntimeError) as error:  # of positions that are looked up, or added
        raise EckartError(
            f"{type(model).__name__} cannot take windows of {window.shape[1]} tokens: {error}. Use a shorter --length."
        ) from error
    return logits


def name_of_cache(model: PreTrainedModel) -> str:
    """Return what the model calls its keys and values; transformers is renaming them."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def of_all_windows(values: Sequence[float], count: int) -> list[float]:
    """Return a number of each window, in order, where every process has those of its own.

    Args:
        values: of the windows that this process looks at.
        count: of all.
    """
    own = dict(zip(dealt(count), values, strict=True))
    return list(total(*(own.get(number, 0.0) for number in range(count))))


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean over windows, and its standard error; None if there is only one."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))
