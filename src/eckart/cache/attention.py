"""An attention module whose cache holds latents: hooks that watch its passes, and what they know of it."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.cache_utils import Cache, DynamicCache

from eckart.cache.call import Call, Roles
from eckart.cache.late_values import LateValues
from eckart.cache.latent_codes import LatentCodes
from eckart.cache.latent_layer import LATENT_LAYERS, LatentLayerMixin
from eckart.cache.replay import States, states_again, zero_output
from eckart.cache.sources import LatentSource
from eckart.cache.token_arguments import TokenArguments
from eckart.errors import EckartWarning


@dataclass(frozen=True)
class Rebuilding:
    """How the keys and values of an attention module follow from latents.

    Attributes:
        sources: the layers whose latents are needed.
        wanted: paths of the modules whose outputs are.
        keys: whether keys follow from them; else they are kept as they are.
        values: likewise.
        roles: of the tensors that the module is handed.
        zeros: widths of the outputs that do not matter, by the path of the projection.
        value_path: the one module whose outputs are the values, but for their order; None if there is none.
        projection: the one layer that is run behind the cache, on what attention gives; None if there is none.
    """

    sources: tuple[LatentSource, ...]
    wanted: frozenset[str]
    keys: bool
    values: bool
    roles: Roles
    zeros: dict[str, int]
    value_path: str | None = None
    projection: str | None = None


@dataclass(eq=False)
class LatentAttention:
    """One that runs with latents in its cache, once :meth:`install` was called.

    Attributes:
        module: the attention module.
        rebuilding: how its keys and values are found.
        codes: how latents are held.
        late: how values are made behind attention; None where they are rebuilt.
    """

    module: nn.Module
    rebuilding: Rebuilding
    codes: LatentCodes
    late: LateValues | None = None
    _projections: dict[str, tuple[nn.Module, tuple[int, ...]]] = field(default_factory=dict)
    _call: Call | None = None
    _latents: dict[int, Tensor] = field(default_factory=dict)
    _handles: list[RemovableHandle] = field(default_factory=list)

    def install(self) -> None:
        """Watch the passes of the module from now on."""
        self._handles = [
            self.module.register_forward_pre_hook(self._before, with_kwargs=True),
            self.module.register_forward_hook(self._after, always_call=True),
        ]
        for number, source in enumerate(self.rebuilding.sources):
            source.listen(partial(self._receive, number))
        for path in self.rebuilding.wanted:
            projection = self.module.get_submodule(path)
            self._projections[path] = projection, _hooks_of(projection)

    @property
    def can_average(self) -> bool:
        """Whether values are the outputs of one module, and one layer takes what attention gives.

        Not where latents are rounded: new tokens are looked at as they are then, and others not averaged with them.
        """
        return None not in (self.rebuilding.value_path, self.rebuilding.projection) and self.codes.is_exact

    def average_latents(self, states: States) -> None:
        """Let attention average latents from now on in place of values.

        Args:
            states: keys and values of some tokens, for their shapes.
        """
        path, projection = self.rebuilding.value_path, self.rebuilding.projection
        if self.can_average and path is not None and projection is not None:
            _, heads, _, size = states.values.shape
            self.late = LateValues(path, self.module.get_submodule(projection), heads, size)
            self.late.install(self.codes)

    def rebuild_values(self) -> None:
        """Let values be rebuilt from now on."""
        if self.late is not None:
            self.late.remove()
            self.late = None

    def remove(self) -> None:
        """Watch no longer; caches that are in use are lost."""
        self.rebuild_values()
        for handle in self._handles:
            handle.remove()
        for source in self.rebuilding.sources:
            source.silence()

    @property
    def runs(self) -> bool:
        """Whether the module is in a pass, which was watched, and still has the projections that were looked at."""
        return self._call is not None and self._is_intact()

    def _is_intact(self) -> bool:
        # An adapter that came since stands in the place of a projection, and adds what does not follow from latents; so
        # may a hook.
        return all(
            self._has(projection, path) and hooks == _hooks_of(projection)
            for path, (projection, hooks) in self._projections.items()
        )

    def _has(self, module: nn.Module, path: str | None) -> bool:
        return path is not None and self.module.get_submodule(path) is module

    def to_store(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the cache is to hold of new tokens, from the latents that their pass has left.

        Args:
            keys: that the cache was handed, (batch, heads, tokens, head size).
            values: likewise.

        Returns:
            Latents or their codes (batch, 1, tokens, width), and the keys or values that are kept as they are, or an
            empty tensor.
        """
        batch, _, tokens, _ = keys.shape
        latents = [self._latents[number].reshape(batch, tokens, -1) for number in range(len(self.rebuilding.sources))]
        self._latents = {}
        plain = keys.new_empty(batch, 1, tokens, 0)
        if not (self.rebuilding.keys and self.rebuilding.values):
            plain = values if self.rebuilding.keys else keys
        return self.codes.encode(latents), plain

    def arguments(self) -> dict[str, Tensor]:
        """Return what the module is handed for each token in this pass, by path."""
        assert self._call is not None
        handed = self._call.tensors()
        return {path: handed[path] for path in self.rebuilding.roles.stored}

    def states(self, stored: Tensor, plain: Tensor, kept: Mapping[str, Tensor], new: int) -> tuple[Tensor, Tensor]:
        """Return keys and values, each (batch, heads, tokens, head size), or latents in place of values.

        Args:
            stored: all latents, as :meth:`to_store` returned them.
            plain: likewise, of keys or values that are kept as they are.
            kept: what the module was handed for each of the tokens, by path.
            new: how many of the tokens attend now.
        """
        if self.late is not None and not self._has(self.late.projection, self.rebuilding.projection):
            self.rebuild_values()  # an adapter came, say
        if self.late is None or not self.late.pays(new):
            return self.rebuilt(stored, plain, kept)
        values = self.late.values(self.codes, stored)
        return self._states(stored, kept, {self.late.path}).keys if self.rebuilding.keys else plain, values

    def rebuilt(self, stored: Tensor, plain: Tensor, kept: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return keys and values as :meth:`states` does, and values always."""
        found = self._states(stored, kept)
        return found.keys if self.rebuilding.keys else plain, found.values if self.rebuilding.values else plain

    def _states(self, stored: Tensor, kept: Mapping[str, Tensor], besides: Collection[str] = ()) -> States:
        """Return keys and values, those zeros that follow from modules which are left out."""
        assert self._call is not None
        outputs = self.codes.decode(stored, besides)
        like = next(iter(outputs.values()))
        zeros = {path: zero_output(like, width) for path, width in self.rebuilding.zeros.items()}
        zeros |= {path: zero_output(like, self.late.width) for path in besides if self.late is not None}
        found = states_again(self.module, self._call, self.rebuilding.roles, kept, {**zeros, **outputs})
        assert found is not None
        return found

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = Call.of(args, kwargs)
        self._call, self._latents = call, {}
        if call.cache is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return
        if type(call.cache) is not DynamicCache:
            _left_alone(type(call.cache).__name__)
        else:
            self._put_into(call.cache)

    def _after(self, *_: object) -> None:
        self._call, self._latents = None, {}
        if self.late is not None:
            self.late.forget()

    def _receive(self, number: int, latents: Tensor) -> None:
        if self._call is not None and self._call.cache is not None:
            self._latents[number] = latents

    def _put_into(self, cache: Cache) -> None:
        """Let the cache hold latents where it holds nothing yet."""
        place: int = self.module.layer_idx  # type: ignore[assignment]
        if cache.layer_class_to_replicate is not None:
            while len(cache.layers) <= place:
                cache.layers.append(cache.layer_class_to_replicate())
        layer = cache.layers[place]
        # One with latents that was emptied may be of another model.
        kind = type(layer) if isinstance(layer, LatentLayerMixin) else LATENT_LAYERS.get(type(layer))
        if kind is None or layer.is_initialized or (isinstance(layer, LatentLayerMixin) and layer.belongs_to(self)):
            return
        if not self._is_intact():
            warnings.warn(
                "A projection was replaced since its latents were to be kept, as by an adapter: the cache keeps keys "
                "and values. Call eckart.latent_cache(model) again.",
                EckartWarning,
                stacklevel=2,
            )
        else:
            self.codes.begin()
            cache.layers[place] = kind.in_place_of(layer, self, self._beside(cache))

    def _beside(self, cache: Cache) -> TokenArguments:
        """Return the store of a layer that was handed the same tensors, or a new one."""
        mine = self.arguments()
        for layer in cache.layers:
            if isinstance(layer, LatentLayerMixin):
                theirs = layer.beside
                if theirs.dims == self.rebuilding.roles.stored and all(
                    theirs.kept.get(path) is tensor for path, tensor in mine.items()
                ):
                    return theirs
        return TokenArguments(self.rebuilding.roles.stored)


def _hooks_of(module: nn.Module) -> tuple[int, ...]:
    return (*module._forward_pre_hooks, *module._forward_hooks)


def _left_alone(kind: str) -> None:
    warnings.warn(
        f"This cache is a {kind}, which keeps keys and values as it does without latents: "
        "latents are kept in a DynamicCache, which `generate` makes unless it is told another.",
        EckartWarning,
        stacklevel=2,
    )
