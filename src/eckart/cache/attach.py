"""Puts the latent cache on a model, and takes it off again."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from eckart.cache.attention import LatentAttention
from eckart.cache.latent_codes import WHOLE, check_bits, latent_codes
from eckart.cache.latent_layer import LATENT_LAYERS
from eckart.cache.probe import Probe, alike, side_bytes
from eckart.cache.recording import Recording, record, run_twice
from eckart.cache.replay import States
from eckart.cache.size import CacheSize, LayerCacheSize
from eckart.errors import EckartError, EckartWarning
from eckart.layers.factored import FactoredLinear
from eckart.layers.kept import KeptOutputsLinear

SUMS_TO_ONE = 0.05  # how far the weights of attention may be from it, rounded to 16 bits
_PLACE, _WAITING = "_eckart_latent_cache", "_eckart_latent_cache_waits"


@dataclass(frozen=True, eq=False)
class LatentCache:
    """The latent cache of a model.

    Attributes:
        attentions: the modules whose cache holds latents.
        bits: of a latent, 16 for the dtype of the model.
        size: bytes of a token, with and without it.
    """

    attentions: tuple[LatentAttention, ...]
    bits: int
    size: CacheSize


def latent_cache(model: PreTrainedModel, bits: int = 16) -> LatentCache:
    """Let a model keep latents in place of keys and values, wherever these follow from layers that are factored.

    In less than 16 bits, layers that are not factored keep their outputs, before norms and rotations.

    ``generate`` and any pass that makes a ``DynamicCache`` use it from then on; nothing else is to be passed. With 16
    bits nothing is lost: keys and values are computed again from what the factored layers have computed, by the code
    of the model. That takes time: each step rebuilds the keys and values of all tokens, a layer at a time. Caches of
    other classes, passes with gradients and compiled ones do as they did.

    Args:
        model: compressed; its weights are not changed. It runs one pass at a time from then on.
        bits: of a latent: 16, or 8, 6, 5, 4, 3 with a scale for each token and layer.

    Returns:
        What a token takes, and why where nothing is saved.

    Raises:
        EckartError: the number of bits is none of these, or the model has no cache that grows.
    """
    check_bits(bits, needed=True)
    remove_latent_cache(model)
    if any(
        isinstance(module, FactoredLinear | KeptOutputsLinear) and module.on_latents is not None
        for module in model.modules()
    ):
        raise EckartError(
            "A model that holds this one keeps latents already: call eckart.remove_latent_cache on that one first."
        )
    paths = {id(module): path for path, module in model.named_modules()}
    attentions: list[LatentAttention] = []
    sizes: list[LayerCacheSize] = []
    shared: dict[int, int] = {}
    shapes: dict[int, States] = {}
    for recording in record(model, unfactored=bits != WHOLE):
        path = paths[id(recording.module)]
        found, size = _attention_of(recording, bits, path)
        sizes.append(size)
        if found is not None:
            attentions.append(found)
            shapes[id(found)] = recording.states[0]
            shared |= _shared_bytes(recording, found)
    if not sizes:
        raise EckartError("No attention module of this model hands keys and values to a cache.")
    for attention in attentions:
        attention.install()
    _average_latents(model, attentions, shapes)
    cache = LatentCache(tuple(attentions), bits, CacheSize(tuple(sizes), sum(shared.values())))
    setattr(model, _PLACE, cache)
    _say_in_config(model, bits)
    if not attentions:
        reasons = "; ".join(f"{count} times: {reason}" for reason, count in cache.size.reasons.items())
        warnings.warn(f"No attention module can keep latents: {reasons}.", EckartWarning, stacklevel=2)
    return cache


def remove_latent_cache(model: nn.Module) -> None:
    """Let a model keep keys and values again; caches that hold latents cannot be used any more."""
    # An adapter's model, or one with a head, may hold the one that it was put on.
    for module in model.modules():
        waiting, cache = vars(module).pop(_WAITING, None), vars(module).pop(_PLACE, None)
        if waiting is not None:
            waiting.remove()
        for attention in () if cache is None else cache.attentions:
            attention.remove()
        if waiting is not None or cache is not None:
            _say_in_config(module, None)


def keep_latents_from_first_pass(model: PreTrainedModel, bits: int) -> None:
    """Call :func:`latent_cache` when a model is first run without gradients: it is on its device then.

    Args:
        model: just loaded.
        bits: of a latent.
    """
    handle = model.register_forward_pre_hook(_FirstPass(bits))
    # Found again by whoever takes the cache off before the first pass.
    setattr(model, _WAITING, handle)


class _FirstPass:
    def __init__(self, bits: int) -> None:
        self.bits = bits

    def __call__(self, model: nn.Module, args: object) -> None:
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return
        try:
            latent_cache(cast(PreTrainedModel, model), self.bits)
        except EckartError as error:
            warnings.warn(f"The cache keeps keys and values, not latents. {error}", EckartWarning, stacklevel=2)


def _say_in_config(model: nn.Module, bits: int | None) -> None:
    """Let what saves the model write that its cache keeps latents."""
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    if config is not None and hasattr(config, "latent_cache"):
        config.latent_cache = bits


def latent_cache_of(model: nn.Module) -> LatentCache | None:
    """Return the latent cache of a model, or of one that it holds; None if there is none."""
    found = (vars(module).get(_PLACE) for module in model.modules())
    return cast("LatentCache | None", next((cache for cache in found if cache is not None), None))


def _average_latents(model: PreTrainedModel, attentions: Sequence[LatentAttention], shapes: dict[int, States]) -> None:
    """Let attention average latents in place of values, unless the model then gives something else."""
    if not any(attention.can_average for attention in attentions):
        return
    expected = run_twice(model)
    for attention in attentions:
        attention.average_latents(shapes[id(attention)])
    late = [attention.late for attention in attentions if attention.late is not None]
    try:
        for each in late:
            each.counts = True
        run_twice(model)
        for each in late:
            each.counts, each.always = False, True
        agrees = alike(run_twice(model), expected) and all(each.farthest < SUMS_TO_ONE for each in late)
    except EckartError:  # something between attention and its projection takes values to be of their own size
        agrees = False
    for each in late:
        each.counts = each.always = False
    if not agrees:
        for attention in attentions:
            attention.rebuild_values()


def _attention_of(recording: Recording, bits: int, path: str) -> tuple[LatentAttention | None, LayerCacheSize]:
    dense = sum(side_bytes(recording.states[0]))
    if not recording.is_complete():
        return None, LayerCacheSize(path, dense, dense, "it is not run once in each pass")
    if recording.layer_class not in LATENT_LAYERS:
        return None, LayerCacheSize(path, dense, dense, f"its cache has a {recording.layer_class.__name__}")
    probe = Probe(recording)
    found = probe.find(bits)
    if isinstance(found, str):
        return None, LayerCacheSize(path, dense, dense, found)
    codes = latent_codes(found.sources, found.wanted, bits)
    keys, values = side_bytes(probe.handed)
    plain = keys * (not found.keys) + values * (not found.values)
    size = LayerCacheSize(path, dense, codes.token_bytes(probe.handed.keys.dtype) + plain)
    return LatentAttention(recording.module, found, codes), size


def _shared_bytes(recording: Recording, attention: LatentAttention) -> dict[int, int]:
    """Return the bytes a token of what the module needs beside latents, by the identity of the tensor."""
    handed = recording.calls[-1].tensors()
    found = {}
    for path, dim in attention.rebuilding.roles.stored.items():
        tensor = handed[path]
        found[id(tensor)] = tensor.element_size() * tensor.numel() // tensor.shape[dim]
    return found
