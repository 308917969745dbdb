"""Questions with answers to choose from: how often the right one is the most likely."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eckart.data.encoder import Encoder
from eckart.data.items import Item
from eckart.data.sampling import read_items
from eckart.errors import CalibrationError, EckartError
from eckart.evaluate.greedy import option_chosen
from eckart.evaluate.scores import ItemScore, score_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Question:
    """A question with answers to choose from.

    Attributes:
        options: a sample for each answer.
        right: the number of the right one.
    """

    options: list[dict[str, Tensor]]
    right: int


def read_questions(source: str, encoder: Encoder, options: Sequence[str], samples: int, seed: int) -> list[Question]:
    """Return questions about items.

    Args:
        source: of items whose answer, label or text is one of the options.
        encoder: of the model.
        options: two or more.
        samples: how many items to draw.
        seed: of the draw.

    Raises:
        EckartError: there are too few options, or an item's answer is none of them.
    """
    plain = [option.strip().casefold() for option in options]
    if len(set(plain)) < 2:
        raise EckartError(f"Expected two options or more to choose from, found {', '.join(options) or 'none'}.")
    if not encoder.inputs.kind.writes:
        raise CalibrationError("Options are for models that write; a classifier has its classes.")
    found = []
    for item, _ in read_items(source, encoder, samples, seed):
        answer = _answer(item)
        if answer is None or answer.strip().casefold() not in plain:
            raise EckartError(f"{item.where}: its answer is {answer!r}, none of the options {', '.join(options)}.")
        samples_of = [encoder.encode(_answered(item, option)) for option in options]
        found.append(Question(samples_of, plain.index(answer.strip().casefold())))
    return found


def measure_options(
    model: PreTrainedModel,
    questions: Sequence[Question],
    *,
    baseline: PreTrainedModel | None = None,
    on_item: Callable[[int, int], None] = lambda done, total: None,
) -> ItemScore:
    """Measure how often the right answer is the one with the lowest loss, its tokens added up.

    Args:
        model: that writes.
        questions: from :func:`read_questions`.
        baseline: is asked the same.
        on_item: is called with (done, total) after each question.
    """
    ours, theirs = [], []
    with torch.inference_mode():
        for number, question in enumerate(questions, start=1):
            ours.append(float(option_chosen(model, question.options) == question.right))
            if baseline is not None:
                theirs.append(float(option_chosen(baseline, question.options) == question.right))
            on_item(number, len(questions))
    return score_of("accuracy (options)", ours, [1] * len(ours), "items", theirs or None)


def _answer(item: Item) -> str | None:
    if item.messages is not None:
        content = item.messages[-1]["content"]
        return content if isinstance(content, str) else None
    return next((t for t in (item.answer, None if item.label is None else str(item.label), item.text) if t), None)


def _answered(item: Item, option: str) -> Item:
    if item.messages is not None:
        return replace(item, messages=[*item.messages[:-1], {**item.messages[-1], "content": option}])
    return replace(item, answer=option)
