"""Samples for any kind of model: from folders, rows, data sets and texts, drawn with a seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eckart.data.classes import names_of_classes
from eckart.data.context import length_for
from eckart.data.encoder import Encoder
from eckart.data.item_sources import ItemSource, find_items
from eckart.data.items import Item, ItemError
from eckart.data.samples import Sample
from eckart.data.text import parts_of
from eckart.data.windows import read_windows
from eckart.errors import CalibrationError, warn
from eckart.kinds import Answers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DEFAULT_LENGTH = 1024
SHOWN = 3  # of the items that were left out


def read_samples(
    source: str,
    processor: Any,
    model: PreTrainedModel,
    samples: int,
    seed: int,
    length: int | None = None,
    chat: bool = False,
) -> list[Sample]:
    """Return what a model's forward pass takes, for each of some items.

    Args:
        source: a folder of images or sounds, ``FILE.jsonl``, ``dataset:NAME:SPLIT``, or a text that
            :func:`eckart.data.text.read_text` knows; several of these with `` + `` between them.
        processor: what makes the model's inputs: a processor, an image processor, a feature extractor, a tokenizer.
        model: of transformers; its weights are not looked at.
        samples: how many to draw; of several sources the same number each.
        seed: of the draw.
        length: tokens after which text is cut; None for 1024, or the model's context if that is shorter.
        chat: write prompts and answers by the model's chat template.

    Returns:
        One mapping an item, with a dimension of 1 in front where the processor gives one; under ``labels`` the answer,
        (1, tokens) with -100 for what does not count, or the index of a class, (1,). Windows of text are all of one
        length; other items are as long as they are.

    Raises:
        CalibrationError: nothing of the source can be read, or a part of the processor is missing.
    """
    if processor is None:
        raise CalibrationError(
            f"Samples of {source!r} need the model's processor or tokenizer, and none was found. Its folder lacks "
            "preprocessor_config.json or tokenizer.json: copy them from the original model, or give one (in Python)."
        )
    if length is None:
        length = length_for(model, default=DEFAULT_LENGTH)
    sources = parts_of(source)
    if samples < len(sources):
        raise CalibrationError(
            f"{len(sources)} sources need as many samples, found {samples}. Use --samples {len(sources)}."
        )
    encoder = Encoder.of(model, processor, length, chat=chat)
    # In turn, so that whoever looks at the first samples only, or at the last, sees all sources.
    order = [sources[number % len(sources)] for number in range(samples)]
    drawn = {part: iter(draw(part, encoder, order.count(part), seed)) for part in dict.fromkeys(sources)}
    return [sample for part in order if (sample := next(drawn[part], None)) is not None]


def read_items(source: str, encoder: Encoder, samples: int, seed: int) -> Iterator[tuple[Item, dict[str, Tensor]]]:
    """Yield items in a drawn order, each with its sample, until there are enough.

    What cannot be read is left out, with a warning.

    Raises:
        CalibrationError: the source holds text only, or none of its items can be read.
    """
    found = find_items(source)
    if found is None:
        raise CalibrationError(
            f"{source!r} holds no items. Expected a folder of images or sounds, FILE.jsonl, or dataset:NAME:SPLIT."
        )
    yield from _items(found, encoder, samples, seed)


def holds_items(source: ItemSource | None, encoder: Encoder) -> bool:
    """Return whether a source is read item by item, and not as one text."""
    if source is None:
        return False
    if source.fields & {"image", "sound"}:
        return True
    asked = bool(source.fields & {"messages", "prompt", "answer"})
    if encoder.inputs.kind.writes:
        # A language model that is given rows of text reads them as one text, unless they are questions.
        return encoder.chat or (asked and "text" not in source.fields)
    return encoder.inputs.kind.name != "masked"


def draw(source: str, encoder: Encoder, samples: int, seed: int) -> list[Sample]:
    """Return samples of one source; see :func:`read_samples`."""
    found = find_items(source)
    if found is None or not holds_items(found, encoder):
        drawn = read_windows(source, encoder.inputs, encoder.processor, samples, encoder.length, seed)
        unseen = [
            name for name, there in (("images", encoder.inputs.images), ("sound", encoder.inputs.sounds)) if there
        ]
        if unseen:
            warn(
                f"{source!r} is text alone: what reads {' and '.join(unseen)} in {type(encoder.inputs.model).__name__} "
                "sees nothing of it. Items with them are taken from a folder, FILE.jsonl or dataset:NAME:SPLIT."
            )
        return list(drawn)
    return [sample for _, sample in _items(found, encoder, samples, seed)]


def _items(source: ItemSource, encoder: Encoder, samples: int, seed: int) -> Iterator[tuple[Item, dict[str, Tensor]]]:
    lost: list[str] = []
    strangers: list[str] = []
    done = 0
    for item in _in_order(source, samples, seed):
        if done == samples:
            break
        try:
            if isinstance(item, ItemError):
                raise item
            sample = encoder.encode(item)
        except ItemError as error:
            lost.append(str(error))
            continue
        done += 1
        if encoder.inputs.kind.answers is Answers.CLASS and item.label is not None and "labels" not in sample:
            strangers.append(str(item.label))
        yield item, sample
    if not done:
        raise CalibrationError(lost[0] if lost else f"{source.name} holds no items.")
    if lost:
        more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
        warn(f"{source.name}: {len(lost)} items are left out. {' '.join(lost[:SHOWN])}{more}")
    if strangers:
        warn(
            f"{source.name}: {len(strangers)} items have a label that is no class of the model, such as "
            f"{strangers[0]!r}, and count as items without one. Its classes: "
            f"{names_of_classes(encoder.inputs.model.config)}."
        )
    if done < samples:
        warn(f"{source.name} has {done} items that can be used, fewer than the {samples} that were asked for.")


def _in_order(source: ItemSource, samples: int, seed: int) -> Iterator[Item | ItemError]:
    if source.stream is not None:
        yield from source.stream(seed, samples)
        return
    assert source.count is not None
    for number in torch.randperm(source.count, generator=torch.Generator().manual_seed(seed)).tolist():
        try:
            yield source.get(number)
        except ItemError as error:
            yield error
