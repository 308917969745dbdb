"""Two short passes of a model, and what its attention modules hand to a cache in them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from eckart.cache.call import Call
from eckart.cache.replay import States
from eckart.cache.sources import LatentSource, sources_below
from eckart.errors import EckartError

TOKENS = (7, 3)  # of the first pass and of the second one, which finds the first in its cache


@dataclass
class Recording:
    """What one attention module did in both passes.

    Attributes:
        module: the attention module.
        sources: the layers with latents below it.
        calls: with what it was called.
        latents: of each source, by its number, (batch, tokens, rank).
        states: what it handed to the cache.
    """

    module: nn.Module
    sources: list[LatentSource]
    calls: list[Call] = field(default_factory=list)
    latents: dict[int, list[Tensor]] = field(default_factory=dict)
    states: list[States] = field(default_factory=list)

    def whole_states(self) -> States:
        """Return keys and values of the tokens of both passes."""
        keys, values = ([getattr(state, side) for state in self.states] for side in ("keys", "values"))
        return States(torch.cat(keys, dim=-2), torch.cat(values, dim=-2))

    def whole_latents(self, number: int) -> Tensor:
        """Return the latents of a source for the tokens of both passes, (batch, tokens, rank)."""
        keys = self.states[0].keys
        parts = [part.reshape(len(keys), -1, part.shape[-1]) for part in self.latents[number]]
        return torch.cat(parts, dim=1)

    def is_complete(self) -> bool:
        """Return whether the module handed something to the cache in both passes, and all its sources ran."""
        ran = all(len(self.latents.get(number, ())) == len(TOKENS) for number in range(len(self.sources)))
        return len(self.calls) == len(self.states) == len(TOKENS) and ran


def record(model: PreTrainedModel, batch: int = 2) -> list[Recording]:
    """Run a model on a few tokens, and return what its attention modules did.

    Modules that are called from one with a ``layer_idx`` below them, such as decoder layers, are none.

    Args:
        model: with a cache; it is not changed.
        batch: sequences.

    Raises:
        EckartError: it cannot be run on tokens alone, or gives no cache.
    """
    found = [module for module in model.modules() if isinstance(getattr(module, "layer_idx", None), int)]
    inner = [module for module in found if not any(part in found for part in module.modules() if part is not module)]
    recordings = [Recording(module, sources_below(module)) for module in inner]
    size = model.get_input_embeddings().weight.shape[0]
    device = model.get_input_embeddings().weight.device
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(size, (batch, sum(TOKENS)), generator=generator).to(device)
    training = model.training
    model.eval()
    try:
        with ExitStack() as stack, torch.no_grad():
            for recording in recordings:
                stack.enter_context(_watched(recording))
            first, second = torch.split(ids, list(TOKENS), dim=1)
            cache = _cache_of(_run(model, input_ids=first, use_cache=True))
            name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
            _run(model, input_ids=second, use_cache=True, **{name: cache})
    finally:
        model.train(training)
    return [recording for recording in recordings if recording.states]


def _run(model: PreTrainedModel, **inputs: Any) -> Mapping[str, Any]:
    try:
        outputs: Mapping[str, Any] = model(**inputs)
    except Exception as error:  # the model's code may raise anything where it needs more than tokens
        raise EckartError(f"The model does not run on tokens alone: {type(error).__name__}: {error}") from error
    return outputs


def _cache_of(outputs: Mapping[str, Any]) -> Cache:
    for value in outputs.values():
        if isinstance(value, DynamicCache):
            return value
    raise EckartError("The model returns no DynamicCache: it has no cache of keys and values that grows.")


@contextmanager
def _watched(recording: Recording) -> Iterator[None]:
    """Record what a module does, without keeping its cache from doing what it does."""
    watched: list[Call] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = Call.of(args, kwargs)
        watched[:] = [call]
        if call.cache is not None:
            update = call.cache.update
            # Of this object only, and until the pass is over.
            call.cache.update = partial(seen, call, update)

    def seen(call: Call, update: Any, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
        recording.calls.append(call)
        recording.states.append(States(keys, values))
        return update(keys, values, *args, **kwargs)

    def after(*_: object) -> None:
        for call in watched:
            if call.cache is not None:
                call.cache.__dict__.pop("update", None)
        watched.clear()

    def received(number: int, latents: Tensor) -> None:
        if watched:
            recording.latents.setdefault(number, []).append(latents)

    handles = [
        recording.module.register_forward_pre_hook(before, with_kwargs=True),
        recording.module.register_forward_hook(after, always_call=True),
    ]
    listening = [source.layer.on_latents for source in recording.sources]
    for number, source in enumerate(recording.sources):
        source.layer.on_latents = partial(received, number)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for source, listener in zip(recording.sources, listening, strict=True):
            source.layer.on_latents = listener
