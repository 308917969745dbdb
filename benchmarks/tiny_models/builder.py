"""Builds a tiny random model of a class."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tiny_models.classes import Entry
from tiny_models.draw import all_configs
from tiny_models.errors import TinyModelError
from tiny_models.exceptions import EXCEPTIONS
from tiny_models.inputs import sample_for
from tiny_models.rules import Sizes
from tiny_models.shrink import fill, shrink

MOST_PARAMETERS = 30_000_000  # a class with more takes many minutes


def tiny_config(
    model_type: str, kind_name: str | None = None, *, filled: bool = False, shallow: bool = False
) -> PreTrainedConfig:
    """Return a small config: the default one with small numbers, and what :data:`EXCEPTIONS` says.

    Args:
        model_type: of the config.
        kind_name: of the entry that it is for, such as ``causal/reformer``, if that matters.
        filled: whether to give numbers to what the default config leaves open.
        shallow: whether to keep all widths, and make layers fewer only.
    """
    config_class = CONFIG_MAPPING[model_type]
    exception = EXCEPTIONS.get(kind_name or "", EXCEPTIONS.get(model_type, {}))
    default = config_class(**exception.get("default", {}))
    for part in all_configs(default):
        _give_sections(part)
    fields = shrink(default.to_dict(), Sizes(**exception.get("sizes", {}), shallow=shallow))
    if filled:
        fill(fields)
    _update(fields, exception.get("fields", {}))
    return config_class.from_dict(fields)


def _give_sections(config: PreTrainedConfig) -> None:
    """Say how pairs of a head are shared by the axes of positions, where a class knows that only for its full size."""
    rotation = getattr(config, "rope_parameters", None)
    named = "mrope_section" in getattr(config, "ignore_keys_at_rope_validation", ())
    if not named or not isinstance(rotation, dict) or "mrope_section" in rotation or "rope_type" not in rotation:
        return
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    pairs = int(width * rotation.get("partial_rotary_factor", 1.0)) // 2
    rotation["mrope_section"] = [pairs - 2 * (pairs // 3), pairs // 3, pairs // 3]


def _update(fields: dict[str, Any], changes: dict[str, Any]) -> None:
    for path, value in changes.items():
        *outer, name = path.split(".")
        place = fields
        for step in outer:
            place = place[step]
        place[name] = value


def build(entry: Entry, seed: int = 0) -> PreTrainedModel:
    """Return a tiny model of a class with random weights, in evaluation mode, that runs on its own sample.

    Args:
        entry: which one.
        seed: of the weights.

    Raises:
        TinyModelError: it could not be built, is not tiny, or does not run.
    """
    first: Exception | None = None
    for filled, shallow in ((False, False), (True, False), (False, True)):
        try:
            model = _built(entry, seed, filled=filled, shallow=shallow)
            sample_for(model, text=entry.is_text)
        except Exception as error:
            first = first or error
        else:
            return model
    if isinstance(first, TinyModelError):
        raise first
    raise TinyModelError(f"{type(first).__name__}: {first}") from first


def _built(entry: Entry, seed: int, *, filled: bool, shallow: bool) -> PreTrainedModel:
    model_class = getattr(transformers, entry.model_class)
    config = _part_for(model_class, tiny_config(entry.model_type, entry.name, filled=filled, shallow=shallow))
    with torch.device("meta"):
        shape = model_class._from_config(config)
    _check_size(shape)
    torch.manual_seed(seed)
    model: PreTrainedModel = model_class._from_config(config)
    return model.eval()


def _part_for(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the config that a class takes: some are mapped to a config of which they take a part, such as its text."""
    wanted = model_class.config_class
    if wanted is None or isinstance(config, wanted):
        return config
    parts = [part for part in vars(config).values() if isinstance(part, PreTrainedConfig) and isinstance(part, wanted)]
    return parts[0] if parts else config


def _check_size(model: PreTrainedModel) -> None:
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > MOST_PARAMETERS:
        largest = sorted(model.named_parameters(), key=lambda item: -item[1].numel())[:4]
        told = ", ".join(f"{name} {list(parameter.shape)}" for name, parameter in largest)
        raise TinyModelError(f"{count / 1e6:.0f} million parameters: {told}")
