"""One sample of inputs for a tiny model, found by what its forward takes and what its config says.

Text, images and sounds have few forms among all classes. Each form is tried until one runs.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, product
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from tiny_models.draw import Draw, find
from tiny_models.errors import TinyModelError
from tiny_models.images import image_forms
from tiny_models.others import named_inputs, other_inputs
from tiny_models.sounds import sound_forms

LENGTH = 16  # tokens of text
MOST_FORMS = {"image": 3, "audio": 9}  # of those that are understood; those of sounds differ in length
FIRST_FORMS = 12  # that the model is asked about
VECTORS = ("pooler_output", "last_hidden_state")  # of what a class returns for an image or a sound
# What classes say of a text with too few placeholders.
LACKING = re.compile(r"tokens: (tensor\()?0\)?, features:? (tensor\()?(?P<features>\d+)")
PLACEHOLDERS = {
    "image": (
        "image_token_id",
        "image_token_index",
        "image_patch_id",
        "media_placeholder_token_id",
        "img_context_token_id",
    ),
    "audio": ("audio_token_id", "audio_token_index", "audio_soft_token_id"),
}


def sample_for(model: PreTrainedModel, seed: int = 0, *, text: bool = False) -> dict[str, Tensor]:
    """Return inputs of one sample, by name, that the model's forward takes.

    Args:
        model: a tiny one.
        seed: of what is drawn.
        text: give text alone to a model that takes images or sounds, too.

    Returns:
        Tensors whose first dimension is 1, or counts images where the class packs them.

    Raises:
        TinyModelError: none of the forms runs; the message is that of the most complete one.
    """
    first: Exception | None = None
    for candidate in _candidates(model, seed, text):
        for sample in chain([candidate], _repaired(model, candidate, seed)):
            error = _error(model, sample)
            if error is None:
                return sample
            first = first or error
    if first is None:
        raise TinyModelError(f"no inputs are known for {', '.join(_names(model))}")
    raise TinyModelError(f"does not run: {type(first).__name__}: {first}") from first


def _error(model: PreTrainedModel, sample: dict[str, Tensor]) -> Exception | None:
    try:
        with torch.no_grad():
            model(**sample)
    except Exception as error:
        return error
    return None


def _repaired(model: PreTrainedModel, sample: dict[str, Tensor], seed: int) -> Iterator[dict[str, Tensor]]:
    """Yield a sample with what the model says that it lacks."""
    said = str(_error(model, sample))
    full = named_inputs(model.config, _names(model), Draw(model.config, seed), sample, said)
    if len(full) > len(sample):
        yield full
        said = str(_error(model, full))
    if lacking := LACKING.search(said):
        yield from _with_placeholders(model.config, full, int(lacking["features"]))


def _with_placeholders(
    config: PreTrainedConfig, sample: dict[str, Tensor], features: int
) -> Iterator[dict[str, Tensor]]:
    """Yield a sample with placeholders for what a message counts: vectors, or the numbers in them."""
    token = _placeholder(config, "image" if any("pixel" in name for name in sample) else "audio")
    if token is None or "input_ids" not in sample:
        return
    ids = sample["input_ids"]
    half = ids.shape[1] // 2
    width = find(config, "hidden_size", default=features)
    for count in dict.fromkeys((features, features // width)):
        longer = torch.cat((ids[:, :half], torch.full((1, count), token), ids[:, half:]), 1)
        mask = {"attention_mask": torch.ones_like(longer)} if "attention_mask" in sample else {}
        yield {**sample, "input_ids": longer, **mask}


@dataclass(frozen=True)
class _Part:
    """Inputs of an image or a sound, and how many vectors the model makes of them; 0 where it does not say."""

    inputs: dict[str, Tensor]
    features: int


def _parts(model: PreTrainedModel, what: str, forms: Iterable[dict[str, Tensor]]) -> list[_Part]:
    """Return the forms of which the model makes vectors; all, if there are none among the first."""
    parts: list[_Part] = []
    for number, form in enumerate(forms):
        parts.append(_Part(form, _features(model, what, form) if number < FIRST_FORMS else 0))
        understood = [part for part in parts if part.features]
        if len(understood) == MOST_FORMS[what] or (understood and number >= FIRST_FORMS):
            break
    return [part for part in parts if part.features] or parts


def _candidates(model: PreTrainedModel, seed: int, text: bool) -> Iterator[dict[str, Tensor]]:
    names = _names(model)
    draw = Draw(model.config, seed)
    nothing = _Part({}, 0)
    images = [] if text else _parts(model, "image", image_forms(model.config, names, draw))
    sounds = [] if text else _parts(model, "audio", sound_forms(model.config, names, draw))
    forms = [
        *product(images[: MOST_FORMS["image"]], sounds[: MOST_FORMS["audio"]]),
        *((image, nothing) for image in images),
        *((nothing, sound) for sound in sounds),
    ]
    for image, sound in forms or [(nothing, nothing)]:
        given = {**image.inputs, **sound.inputs}
        if "input_ids" in names:
            for ids in _texts(model, names, draw, image, sound):
                yield from other_inputs(model.config, names, draw, {**given, **ids})
        if not names.get("input_ids") and (given or "input_ids" not in names):
            yield from other_inputs(model.config, names, draw, given)


def _names(model: PreTrainedModel) -> dict[str, bool]:
    """Return what forward takes, and whether it must be given."""
    parameters = inspect.signature(model.forward).parameters.values()
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {item.name: item.default is item.empty for item in parameters if item.kind not in kinds}


def _texts(
    model: PreTrainedModel, names: dict[str, bool], draw: Draw, image: _Part, sound: _Part
) -> Iterator[dict[str, Tensor]]:
    """Yield token ids with as many placeholders as the images and sounds have vectors, in one form after the other."""
    config = model.config
    half = LENGTH // 2
    head, tail = draw.ids(half), draw.ids(half)
    end = getattr(config, "eos_token_id", None)
    if getattr(config, "is_encoder_decoder", False) and isinstance(end, int):
        tail[:, -1] = end  # by which classifiers find the end
    parts, kinds = [head], [torch.zeros_like(head)]
    for kind, what, part in ((1, "image", image), (3, "audio", sound)):
        token = _placeholder(config, what)
        if part.features and token is not None:
            parts.append(torch.full((1, part.features), token))
            kinds.append(torch.full((1, part.features), kind))
    ids, types = torch.cat([*parts, tail], 1), torch.cat([*kinds, torch.zeros_like(tail)], 1)
    text = {"input_ids": ids}
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in names and image.inputs and (name == "mm_token_type_ids" or types.any()):
            text[name] = types
    if "attention_mask" in names:  # that of a sound is another one, in classes that take no ids
        text["attention_mask"] = torch.ones_like(ids)
    yield text
    token = _placeholder(config, "audio" if sound.inputs else "image")
    if (image.inputs or sound.inputs) and token is not None and not types.any():
        one = ids.clone()
        one[:, 0] = token  # some classes put all vectors where one placeholder is
        yield {**text, "input_ids": one}
    books = find(config, "num_codebooks")
    if books is not None:  # one row of ids for each, or one column
        rows = draw.ids(LENGTH * books).reshape(books, LENGTH)
        beside = draw.ids(LENGTH)  # text beside the codes of sounds
        for form in (rows, rows[None], rows.T[None], torch.cat((beside[..., None], rows.T[None]), -1)):
            yield {"input_ids": form}


def _placeholder(config: PreTrainedConfig, what: str) -> int | None:
    for place in (config, *(part for part in vars(config).values() if isinstance(part, PreTrainedConfig))):
        for name in PLACEHOLDERS[what]:
            found: Any = getattr(place, name, None)
            if isinstance(found, int):
                return found
    return None


def _features(model: PreTrainedModel, what: str, inputs: dict[str, Tensor]) -> int:
    """Return how many vectors a model makes of images or sounds; 0 if it does not say."""
    name = f"get_{what}_features"
    find = next((getattr(module, name) for module in model.modules() if hasattr(module, name)), None)
    if find is None:
        return 0
    taken = inspect.signature(find).parameters
    for given in ({key: value for key, value in inputs.items() if key in taken}, inputs):
        try:
            with torch.no_grad():
                found = find(**given)
        except Exception:  # of this form; the run of the model will say so
            continue
        found = next((part for name in VECTORS if (part := getattr(found, name, None)) is not None), found)
        tensors = [found] if isinstance(found, Tensor) else [item for item in found if isinstance(item, Tensor)]
        return sum(tensor.numel() // tensor.shape[-1] for tensor in tensors)
    return 0
