"""One timed run: the prompt in one pass, then token after token, as a server without batching tricks would do it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from eckart.device import synchronize


@dataclass(frozen=True)
class Timed:
    """What a run took.

    Attributes:
        first_token: seconds from the prompt to the first new token.
        steps: seconds of each token after it.
        tokens: (batch, generated) int64, that were chosen, the most likely ones.
        cache_bytes: of keys and values at the end.
    """

    first_token: float
    steps: list[float]
    tokens: Tensor
    cache_bytes: int


@torch.inference_mode()
def run_once(model: PreTrainedModel, prompt: Tensor, generate: int) -> Timed:
    """Continue ``prompt``, (batch, length) int64, by ``generate`` tokens, one or more, and time it."""
    device, cache = prompt.device, name_of_cache(model)
    synchronize(device)
    start = perf_counter()
    output = model(input_ids=prompt, use_cache=True, logits_to_keep=1)
    chosen = [_most_likely(output.logits)]
    synchronize(device)
    first = perf_counter() - start
    steps = []
    for _ in range(generate - 1):
        start = perf_counter()
        output = model(input_ids=chosen[-1], use_cache=True, **{cache: output[cache]})
        chosen.append(_most_likely(output.logits))
        synchronize(device)
        steps.append(perf_counter() - start)
    return Timed(first, steps, torch.cat(chosen, dim=1).cpu(), cache_bytes(output[cache]))


def name_of_cache(model: PreTrainedModel) -> str:
    """Return what the model calls its keys and values; transformers is renaming them."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def _most_likely(logits: Tensor) -> Tensor:
    return logits[:, -1].argmax(dim=-1, keepdim=True)


def cache_bytes(cache: Any) -> int:
    """Return the bytes of the keys and values in a cache of transformers."""
    pairs = ((layer.keys, layer.values) for layer in cache.layers)
    return sum(tensor.nbytes for pair in pairs for tensor in pair if tensor is not None)
