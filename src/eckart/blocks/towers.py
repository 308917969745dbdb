"""Names the towers of a model: its parts for images, sound and text, its encoder and its decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUFFIX = "_config"
LANGUAGE = "language"
NAMES = {"text": LANGUAGE, "thinker": LANGUAGE, "llm": LANGUAGE, "decoder": "decoder", "encoder": "encoder"}
BY_INPUT = {"pixel_values": "vision", "input_features": "audio", "input_values": "audio"}
ENDS = ("encoder", "decoder")


def tower_of(model: PreTrainedModel, path: str) -> str:
    """Return the name of the tower that a module is in.

    Where the configuration has one for each part of the model, as ``vision_config``, the name is that of the innermost
    part: ``vision``, ``audio``, ``language``. In an encoder-decoder it is ``encoder`` or ``decoder``. Else the whole
    model is one tower, named by what it takes.

    Args:
        model: as a whole.
        path: of the module in it.
    """
    parts = [part for part in path.split(".") if part]
    if getattr(model.config, "is_encoder_decoder", False):
        found = next((part for part in parts if part in ENDS), None)
        if found is not None:
            return found
    names = {id(value): name for name, value in _parts_of(model.config)}
    inner: nn.Module = model
    known = None
    for part in parts:
        inner = getattr(inner, part)
        known = names.get(id(getattr(inner, "config", None)), known)
    if known is not None:
        return NAMES.get(known, known)
    named = model.main_input_name  # some classes name several
    return next(
        (BY_INPUT[name] for name in ([named] if isinstance(named, str) else named) if name in BY_INPUT), LANGUAGE
    )


def _parts_of(config: object) -> list[tuple[str, object]]:
    """Return the configurations inside of one, at any depth, and their names."""
    found = []
    for name, value in vars(config).items():
        if name.endswith(SUFFIX) and hasattr(value, "model_type") and name != f"quantization{SUFFIX}":
            found += [(name.removesuffix(SUFFIX), value), *_parts_of(value)]
    return found
