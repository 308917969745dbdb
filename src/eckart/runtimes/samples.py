"""Inputs that a model is traced with and compared on, of unequal shapes, made up by what it takes."""

from __future__ import annotations

import io
import struct
import wave
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eckart.blocks.probe import probe_inputs
from eckart.data.context import length_for, token_embedding
from eckart.data.encoder import Encoder
from eckart.data.items import Item
from eckart.data.processor import Inputs
from eckart.data.samples import IDS, LABELS, MASK
from eckart.errors import EckartError, ExportError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Rows, tokens, and tokens of padding in front of the last row. A dimension of 1 would be taken for one that stays so.
TRACED, OTHER = (2, 7, 2), (1, 10, 1)
WORDS = "Some words to run a model on."
PIXELS, RATE, SECONDS = 64, 16000, 1

Sample = dict[str, Tensor]


def samples_for(model: PreTrainedModel, processor: Any | None) -> list[Sample]:
    """Return inputs of a model: those that it is traced with, and others of other shapes where it takes text alone.

    Args:
        model: that will be exported.
        processor: what :func:`eckart.checkpoint.processor.load_processor` gives, for images and sound.

    Returns:
        What its forward takes by name, or what ``generate`` takes if it writes.

    Raises:
        ExportError: nothing is known of what the model takes.
    """
    takes = Inputs.of(model)
    sees_more = processor is not None and (takes.images or takes.sounds)
    if takes.text_alone and not sees_more and token_embedding(model) is not None:
        return [_text(model, takes, *shape) for shape in (TRACED, OTHER)]
    try:
        if processor is None:
            sample = dict(probe_inputs(model))
        else:
            length = length_for(model, default=TRACED[1])
            image, sound = _image() if takes.images else None, _sound() if takes.sounds else None
            item = Item("a sample", image=image, sound=sound, text=WORDS, prompt=WORDS)
            sample = dict(Encoder.of(model, processor, length).encode(item))
    except EckartError as error:
        raise ExportError(
            f"No sample inputs can be made for {type(model).__name__}: {error} Give some: inputs={{name: tensor, ...}} "
            "(in Python), as its forward takes them."
        ) from error
    sample.pop(LABELS, None)
    if model.can_generate():
        sample = {name: tensor for name, tensor in sample.items() if not name.startswith("decoder_")}
        return [sample]
    return [{name: torch.cat([tensor, tensor.flip(-1)]) for name, tensor in sample.items()}, sample]


def _text(model: PreTrainedModel, takes: Inputs, rows: int, length: int, padding: int) -> Sample:
    """Return random tokens, (rows, length), the first ones of the last row padding."""
    embedding = token_embedding(model)
    assert embedding is not None
    made = torch.Generator().manual_seed(length)
    ids = torch.randint(int(embedding.num_embeddings), (rows, length), generator=made)  # type: ignore[arg-type]
    sample = {IDS: ids}
    if MASK in takes.names:
        sample[MASK] = torch.ones_like(ids)
        # A model that writes is told of padding, or its graph would have no place for that.
        if model.can_generate():
            sample[MASK][-1, :padding] = 0
    if takes.separate_decoder and not model.can_generate():
        sample["decoder_input_ids"] = ids.flip(-1)
    return sample


def _image() -> bytes:
    try:
        from PIL import Image
    except ImportError as error:
        raise ExportError("Reading images needs an extra: pip install 'eckart[images]'.") from error
    pixels = torch.randint(256, (PIXELS, PIXELS, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "png")
    return file.getvalue()


def _sound() -> bytes:
    count = RATE * SECONDS
    numbers = torch.randint(-9999, 9999, (count,), generator=torch.Generator().manual_seed(0)).tolist()
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes(struct.pack(f"<{count}h", *numbers))
    return file.getvalue()
