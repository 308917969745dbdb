"""One sample of inputs for a tiny model, found by what its forward takes and what its config says.

Text, images and sounds have few forms among all classes. Each form is tried until one runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from tiny_models.draw import Draw, find
from tiny_models.errors import TinyModelError
from tiny_models.images import image_forms
from tiny_models.others import other_inputs
from tiny_models.sounds import sound_forms

LENGTH = 16  # tokens of text
PLACEHOLDERS = {
    "image": ("image_token_id", "image_token_index", "image_patch_id", "media_placeholder_token_id", "img_context_token_id"),
    "audio": ("audio_token_id", "audio_token_index", "audio_soft_token_id"),
}


def sample_for(model: PreTrainedModel, seed: int = 0) -> dict[str, Tensor]:
    """Return inputs of one sample, by name, that the model's forward takes.

    Args:
        model: a tiny one.
        seed: of what is drawn.

    Returns:
        Tensors whose first dimension is 1, or counts images where the class packs them.

    Raises:
        TinyModelError: none of the forms runs; the message is that of the most complete one.
    """
    first: Exception | None = None
    for sample in _candidates(model, seed):
        try:
            with torch.no_grad():
                model(**sample)
        except Exception as error:
            first = first or error
        else:
            return sample
    if first is None:
        raise TinyModelError(f"no inputs are known for {', '.join(_names(model))}")
    raise TinyModelError(f"does not run: {type(first).__name__}: {first}") from first


def _candidates(model: PreTrainedModel, seed: int) -> Iterator[dict[str, Tensor]]:
    names = _names(model)
    draw = Draw(model.config, seed)
    images = [*image_forms(model.config, names, draw)]
    sounds = [*sound_forms(model.config, names, draw)]
    both = list(product(images, sounds)) if images and sounds else []
    forms: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = [
        *both,
        *((image, {}) for image in images),
        *(({}, sound) for sound in sounds),
        ({}, {}),
    ]
    for image, sound in forms:
        sample = {**image, **sound}
        if "input_ids" not in names:
            yield from other_inputs(model.config, names, draw, sample)
            continue
        text = _text(model, names, draw, image, sound)
        yield from other_inputs(model.config, names, draw, {**sample, **text})
        books = find(model.config, "num_codebooks")
        if books is not None:  # one row of ids for each, or one column
            rows = draw.ids(LENGTH * books).reshape(books, LENGTH)
            for ids in (rows, rows[None], rows.T[None]):
                yield from other_inputs(model.config, names, draw, {**sample, "input_ids": ids})


def _names(model: PreTrainedModel) -> dict[str, bool]:
    """Return what forward takes, and whether it must be given."""
    parameters = inspect.signature(model.forward).parameters.values()
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {item.name: item.default is item.empty for item in parameters if item.kind not in kinds}


def _text(
    model: PreTrainedModel, names: dict[str, bool], draw: Draw, image: dict[str, Tensor], sound: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return token ids with as many placeholders as the images and sounds have features."""
    parts = [draw.ids(LENGTH // 2)]
    kinds = [torch.zeros(1, LENGTH // 2, dtype=torch.long)]
    for number, (what, inputs) in enumerate((("image", image), ("audio", sound)), start=1):
        token = _placeholder(model.config, what)
        count = _features(model, what, inputs) if inputs and token is not None else 0
        if count:
            parts.append(torch.full((1, count), token))
            kinds.append(torch.full((1, count), 1 if number == 1 else 3))
    parts.append(draw.ids(LENGTH // 2))
    kinds.append(torch.zeros(1, LENGTH // 2, dtype=torch.long))
    ids, types = torch.cat(parts, 1), torch.cat(kinds, 1)
    text = {"input_ids": ids}
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in names and image and (name == "mm_token_type_ids" or (types > 0).any()):
            text[name] = types
    if "attention_mask" in names and "attention_mask" not in sound:
        text["attention_mask"] = torch.ones_like(ids)
    return text


def _placeholder(config: PreTrainedConfig, what: str) -> int | None:
    for place in (config, *(part for part in vars(config).values() if isinstance(part, PreTrainedConfig))):
        for name in PLACEHOLDERS[what]:
            found: Any = getattr(place, name, None)
            if isinstance(found, int):
                return found
    return None


def _features(model: PreTrainedModel, what: str, inputs: dict[str, Tensor]) -> int:
    """Return how many vectors a model makes of images or sounds; 0 if it does not say."""
    find = getattr(model, f"get_{what}_features", None)
    if find is None:
        return 0
    taken = inspect.signature(find).parameters
    try:
        with torch.no_grad():
            found = find(**{name: value for name, value in inputs.items() if name in taken})
    except Exception:  # of this form; the run of the model will say so
        return 0
    found = getattr(found, "pooler_output", found)
    tensors = [found] if isinstance(found, Tensor) else [item for item in found if isinstance(item, Tensor)]
    return sum(tensor.numel() // tensor.shape[-1] for tensor in tensors)
