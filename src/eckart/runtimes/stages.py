"""Which parts of a model become graphs, and what each is traced and run with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers import __version__ as version
from transformers.cache_utils import Cache, DynamicLayer
from transformers.exporters.utils import decompose_for_generation, is_multimodal

from eckart.errors import ExportError
from eckart.kinds import is_encoder_decoder
from eckart.runtimes.samples import Sample

PREFILL, DECODE, MODEL = "prefill", "decode", "model"
ENCODER = "_encoder"  # how parts that read images or sound are called


@dataclass(frozen=True)
class Call:
    """One run of a part.

    Attributes:
        part: its name.
        module: that is run in memory.
        inputs: by name, as its forward takes them.
        continues: whether it goes on from the call before: what runs a file hands it that call's cache, or holds it.
    """

    part: str
    module: nn.Module
    inputs: dict[str, Any]
    continues: bool = False

    def fed(self, before: Any | None) -> dict[str, Any]:
        """Return what a graph is handed for this call.

        A cache is that of the call before, or an empty one of the right shapes: a graph knows no layer of a cache that
        has not begun.

        Args:
            before: what the graph returned for the call before, if this one continues it.
        """
        inputs = copy.deepcopy(self.inputs)
        caches = [name for name, value in inputs.items() if isinstance(value, Cache)]
        given = [value for value in dict(before or {}).values() if isinstance(value, Cache)]
        if self.continues and len(caches) == len(given) == 1:
            inputs[caches[0]] = given[0]
        return inputs


def writes_with_one_graph(model: PreTrainedModel) -> bool:
    """Return whether one graph serves both a prompt and each further token.

    It does for a decoder whose memory of earlier tokens is their keys and values, and may be empty.
    """
    return bool(model.can_generate()) and not is_encoder_decoder(model) and not is_multimodal(model)


def traced_calls(model: PreTrainedModel, sample: Sample) -> list[Call]:
    """Return the parts of a model, each with what it is traced with.

    Args:
        model: to export.
        sample: what its forward takes, or what ``generate`` takes if it writes.

    Returns:
        The whole model; of one that writes, a graph for any number of tokens behind any number of earlier ones, or
        one for each part and stage.

    Raises:
        ExportError: a part would be left out.
    """
    if not model.can_generate():
        return [Call(MODEL, model, dict(sample))]
    stages = decompose_for_generation(model, copy.deepcopy(dict(sample)), multi_token_decode=True)
    if writes_with_one_graph(model) and _can_be_empty(stages[DECODE][1]):
        return [Call(MODEL, *stages[DECODE])]
    if is_multimodal(model) and not any(name.endswith(ENCODER) for name in stages):
        raise ExportError(
            f"{type(model).__name__} reads more than text, and the exporters of transformers {version} leave out what "
            "reads it, since its generate() runs that apart. Export the parts one by one (in Python: "
            "eckart.export(model.model.vision_tower, ..., inputs={...}) and so on)."
        )
    return [Call(name, module, inputs) for name, (module, inputs) in stages.items()]


def checked_calls(model: PreTrainedModel, sample: Sample, parts: list[str]) -> list[Call]:
    """Return what a written model is run with, to compare it.

    Args:
        model: in memory.
        sample: as for :func:`traced_calls`, the same or another one.
        parts: names of the graphs.

    Returns:
        The calls in order. Where one graph serves all, it is handed a prompt and then a further token.
    """
    if not model.can_generate():
        return [Call(MODEL, model, dict(sample))]
    stages = decompose_for_generation(model, copy.deepcopy(dict(sample)))
    if parts != [MODEL]:
        return [Call(name, module, inputs) for name, (module, inputs) in stages.items() if name in parts]
    (module, prompt), (_, further) = stages[PREFILL], stages[DECODE]
    empty = {name: _emptied(value) for name, value in further.items() if isinstance(value, Cache)}
    return [
        Call(MODEL, module, {**prompt, **empty}),
        Call(MODEL, module, further, continues=True),
    ]


def _can_be_empty(inputs: Mapping[str, Any]) -> bool:
    caches = [value for value in inputs.values() if isinstance(value, Cache)]
    return bool(caches) and all(isinstance(layer, DynamicLayer) for cache in caches for layer in cache.layers)


def _emptied(cache: Any) -> Any:
    """Return a cache of the same shapes that holds no tokens."""
    cache = copy.deepcopy(cache)
    for layer in cache.layers:
        layer.keys, layer.values = (
            # A part of no numbers would keep the strides of the whole, which ExecuTorch ends the process for.
            tensor.new_empty((*tensor.shape[:2], 0, tensor.shape[3]))
            for tensor in (layer.keys, layer.values)
        )
        if layer.is_sliding:
            layer.cumulative_length = 0
    return cache
