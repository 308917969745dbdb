"""Two short passes of a model, and what its attention modules hand to a cache in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from eckart.cache.call import Call
from eckart.cache.replay import States
from eckart.cache.sources import LatentSource, linears_below, sources_below
from eckart.errors import EckartError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
        layer_class: of the layer of the cache that it handed them to.
        behind: paths of the linear layers that it ran behind that.
    """

    module: nn.Module
    sources: list[LatentSource]
    calls: list[Call] = field(default_factory=list)
    latents: dict[int, list[Tensor]] = field(default_factory=dict)
    states: list[States] = field(default_factory=list)
    layer_class: type = object
    behind: list[str] = field(default_factory=list)

    def whole_states(self) -> States:
        """Return keys and values of the tokens of both passes."""
        keys, values = ([getattr(state, side) for state in self.states] for side in ("keys", "values"))
        return States(torch.cat(keys, dim=-2), torch.cat(values, dim=-2))

    def whole_latents(self, number: int) -> Tensor | None:
        """Return the latents of a source for the tokens of both passes, (batch, tokens, rank).

        None where it was not run once in each pass, for each token.
        """
        parts, batch = self.latents.get(number, []), len(self.states[0].keys)
        if [part.numel() for part in parts] != [batch * tokens * self.sources[number].rank for tokens in TOKENS]:
            return None
        return torch.cat([part.reshape(batch, -1, part.shape[-1]) for part in parts], dim=1)

    def is_complete(self) -> bool:
        """Return whether the module handed something to the cache once in each pass."""
        return len(self.calls) == len(self.states) == len(TOKENS)


def record(model: PreTrainedModel, batch: int = 2, *, unfactored: bool = False) -> list[Recording]:
    """Run a model on a few tokens, and return what its attention modules did.

    They are the innermost modules with a ``layer_idx`` that hand something to a cache.

    Args:
        model: with a cache; it is not changed.
        batch: sequences.
        unfactored: whether layers are to be heard that are not factored, too.

    Raises:
        EckartError: it cannot be run on tokens alone, or gives no cache.
    """
    found = [module for module in model.modules() if isinstance(getattr(module, "layer_idx", None), int)]
    recordings = [Recording(module, sources_below(module, unfactored=unfactored)) for module in found]
    with ExitStack() as stack:
        for recording in recordings:
            stack.enter_context(_watched(recording))
        run_twice(model, batch)
    handing = [recording for recording in recordings if recording.states]
    return [outer for outer in handing if not any(_is_inside(inner.module, outer.module) for inner in handing)]


@torch.no_grad()
def run_twice(model: PreTrainedModel, batch: int = 2) -> Tensor:
    """Run a model on a few tokens, and then on a few more that find the first ones in its cache.

    Args:
        model: with a cache.
        batch: sequences.

    Returns:
        What the second pass gives: logits (batch, tokens, vocabulary), or hidden states of a model without a head.

    Raises:
        EckartError: it cannot be run on tokens alone, or gives no cache.
    """
    size = model.get_input_embeddings().weight.shape[0]
    # What is offloaded is on no device until it runs; hooks move what it is handed.
    device = next((tensor.device for tensor in model.parameters() if not tensor.is_meta), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(size, (batch, sum(TOKENS)), generator=generator).to(device)
    training = model.training
    model.eval()
    try:
        first, second = torch.split(ids, list(TOKENS), dim=1)
        found = _cache_in(_run(model, input_ids=first, use_cache=True))
        outputs = _run(model, input_ids=second, use_cache=True, **found)
    finally:
        model.train(training)
    return next(value for value in outputs.values() if isinstance(value, Tensor))


def _is_inside(inner: nn.Module, outer: nn.Module) -> bool:
    return inner is not outer and any(module is inner for module in outer.modules())


def _run(model: PreTrainedModel, **inputs: Any) -> Mapping[str, Any]:
    try:
        outputs: Mapping[str, Any] = model(**inputs)
    except Exception as error:  # the model's code may raise anything where it needs more than tokens
        raise EckartError(f"The model does not run on tokens alone: {type(error).__name__}: {error}") from error
    return outputs


def _cache_in(outputs: Mapping[str, Any]) -> dict[str, Cache]:
    """Return the cache by its name among what a model returns, which differs between releases."""
    for name, value in outputs.items():
        if isinstance(value, DynamicCache):
            return {name: value}
    raise EckartError("The model returns no DynamicCache: it has no cache of keys and values that grows.")


@contextmanager
def _watched(recording: Recording) -> Iterator[None]:
    """Record what a module does, without keeping its cache from doing what it does."""
    watched: list[tuple[Call, Any]] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = Call.of(args, kwargs)
        watched[:] = [(call, None if call.cache is None else vars(call.cache).get("update"))]
        if call.cache is not None:
            # Of this object only, and until the pass is over.
            call.cache.update = partial(seen, call, call.cache.update)

    def seen(call: Call, update: Any, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
        recording.calls.append(call)
        recording.states.append(States(keys, values))
        recording.layer_class = type(cast(Cache, call.cache).layers[recording.module.layer_idx])
        return update(keys, values, *args, **kwargs)

    def after(*_: object) -> None:
        for call, update in watched:
            if call.cache is not None:
                vars(call.cache).pop("update", None)
                if update is not None:
                    call.cache.update = update
        watched.clear()

    def received(number: int, latents: Tensor) -> None:
        if watched:
            recording.latents.setdefault(number, []).append(latents)

    def ran(path: str, *_: object) -> None:
        if watched and recording.calls and recording.calls[-1] is watched[-1][0]:
            recording.behind.append(path)

    handles = [
        recording.module.register_forward_pre_hook(before, with_kwargs=True),
        recording.module.register_forward_hook(after, always_call=True),
    ]
    for path in linears_below(recording.module):
        handles.append(recording.module.get_submodule(path).register_forward_pre_hook(partial(ran, path)))
    for number, source in enumerate(recording.sources):
        source.listen(partial(received, number))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for source in recording.sources:
            source.silence()
