"""One timed run: the prompt in one pass, then token after token, as a server without batching tricks would do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, StaticCache

from eckart.device import synchronize
from eckart.evaluate.caches import MakeCache, cache_bytes
from eckart.evaluate.windows import name_of_cache


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


Forward = Callable[..., Any]


@torch.inference_mode()
def run_once(
    model: PreTrainedModel,
    prompt: Tensor,
    generate: int,
    compiled: Forward | None = None,
    make_cache: MakeCache | None = None,
) -> Timed:
    """Continue ``prompt``, (batch, length) int64, by ``generate`` tokens, one or more, and time it.

    Args:
        model: in evaluation mode.
        prompt: (batch, length) int64.
        generate: tokens to continue by.
        compiled: from :func:`compiled_forward`: runs every token after the first one, on a cache of fixed size.
        make_cache: makes an empty cache of another kind than the model's own.
    """
    device, cache = prompt.device, name_of_cache(model)
    given: dict[str, Any] = {}
    if compiled is not None:
        # The last token is chosen and not run, so that it is in no cache.
        given[cache] = StaticCache(config=model.config, max_cache_len=prompt.shape[1] + generate - 1)
    elif make_cache is not None:
        given[cache] = make_cache()
    synchronize(device)
    start = perf_counter()
    output = model(input_ids=prompt, use_cache=True, logits_to_keep=1, **given)
    chosen = [_most_likely(output.logits)]
    synchronize(device)
    first = perf_counter() - start
    steps = []
    for _ in range(generate - 1):
        start = perf_counter()
        output = (compiled or model)(input_ids=chosen[-1], use_cache=True, **{cache: output[cache]})
        chosen.append(_most_likely(output.logits))
        synchronize(device)
        steps.append(perf_counter() - start)
    return Timed(first, steps, torch.cat(chosen, dim=1).cpu(), cache_bytes(output[cache]))


def compiled_forward(model: PreTrainedModel, backend: str = "inductor") -> Forward:
    """Return a model's forward pass as ``torch.compile`` makes it at the first call, for tokens of one shape.

    Graphs that were made before are forgotten first, since there is a limit to how many of one model are made.
    """
    torch.compiler.reset()
    forward: Forward = torch.compile(model.forward, dynamic=False, backend=backend)
    return forward


def _most_likely(logits: Tensor) -> Tensor:
    return logits[:, -1].argmax(dim=-1, keepdim=True)
