"""A layer of transformers' cache that holds latents, and gives keys and values when it is asked."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from eckart.cache.latent_codes import LatentCodes
from eckart.cache.token_arguments import TokenArguments
from eckart.errors import EckartError


class Rebuilds(Protocol):
    """What a layer asks of the attention module whose latents it holds: see ``LatentAttention``."""

    codes: LatentCodes

    @property
    def runs(self) -> bool:
        """Whether a pass of the module is under way whose latents were seen."""

    def arguments(self) -> dict[str, Tensor]:
        """Return what the module needs beside latents, of the new tokens."""

    def to_store(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latents of new tokens, and keys or values that are kept as they are."""

    def states(self, stored: Tensor, plain: Tensor, kept: Mapping[str, Tensor], new: int) -> tuple[Tensor, Tensor]:
        """Return what attention takes for the keys and values of all tokens."""

    def rebuilt(self, stored: Tensor, plain: Tensor, kept: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the keys and values of all tokens."""


class LatentLayerMixin(CacheLayerMixin):  # type: ignore[misc]
    """What both kinds of layers do: latents take the places of keys, along the same dimensions.

    Attributes:
        keys: latents or their codes, (batch, 1, tokens, numbers or bytes of a token).
        values: keys or values that are kept as they are, (batch, heads, tokens, head size); of width 0 if none are.
        beside: what the attention module needs for each token, shared with other layers of the cache.
        number: of this layer among those.
    """

    keys: Tensor | None
    values: Tensor | None
    beside: TokenArguments
    number: int
    _attention: weakref.ref[Rebuilds]  # not the module itself: whoever copies a cache copies no model

    @classmethod
    def in_place_of(cls, layer: CacheLayerMixin, attention: Rebuilds, beside: TokenArguments) -> Self:
        """Return an empty layer that stands for an empty layer of transformers."""
        own = cls.__new__(cls)
        own.__dict__.update(layer.__dict__)
        own._attention = weakref.ref(attention)
        own.beside, own.number = beside, beside.join()
        return own

    def belongs_to(self, attention: Rebuilds) -> bool:
        """Return whether the latents are those of an attention module."""
        return self._attention() is attention

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keep the latents of new tokens, and return the keys and values of all that are visible."""
        attention = self._attention()
        if attention is None or not attention.runs:
            raise EckartError(
                "This cache holds latents of another model, or of one that was changed or whose latent cache was taken "
                "off since. Make a new cache."
            )
        before = self.get_seq_length()
        self.beside.extend(attention.arguments(), before + key_states.shape[-2])
        new = key_states.shape[-2]
        with torch.no_grad():  # what is held is constant, as in any cache
            stored, plain = super().update(*attention.to_store(key_states, value_states), *args, **kwargs)
            self.beside.held[self.number] = self.stored_tokens()
            if not before:
                return key_states, value_states  # of all tokens that there are
            kept = self.beside.last(stored.shape[-2])
            has_gradients = key_states.requires_grad or value_states.requires_grad
            if attention.codes.is_exact and not has_gradients:
                return attention.states(stored, plain, kept, new)
            keys, values = attention.rebuilt(stored, plain, kept)
        # New tokens are looked at as they are, with their gradients; what is near counts most.
        past = keys.shape[-2] - new
        sides = ((keys, key_states), (values, value_states))
        first, second = (torch.cat([held[..., :past, :].to(own.dtype), own], -2) for held, own in sides)
        return first, second

    def stored_tokens(self) -> int:
        """Return how many tokens are held."""
        return 0 if self.keys is None or self.keys.ndim < 4 else self.keys.shape[-2]

    def token_bytes(self) -> float:
        """Return the bytes that a token takes here, without what layers share; 0 if none is held."""
        held = [tensor for tensor in (self.keys, self.values) if tensor is not None and tensor.ndim == 4]
        tokens = self.stored_tokens()
        return sum(tensor.numel() * tensor.element_size() for tensor in held) / tokens if tokens else 0.0

    def reset(self) -> None:
        """Forget all tokens."""
        super().reset()
        self.beside.held[self.number] = 0
        if self._leads():
            self.beside.forget()

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; the number is negative."""
        before = self.get_seq_length()
        super().crop(tokens_to_remove)
        self.beside.held[self.number] = self.stored_tokens()
        if self._leads() and self.is_initialized:
            self.beside.drop_last(before - self.get_seq_length())

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Put the sequences in another order, as a beam search does."""
        self._change_beside(lambda tensor, dim: tensor.index_select(dim, beam_idx.to(tensor.device)))
        super().reorder_cache(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence."""
        self._change_beside(lambda tensor, dim: tensor.repeat_interleave(repeats, dim=dim))
        super().batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some of the sequences."""

        def chosen(tensor: Tensor, dim: int) -> Tensor:
            wanted = indices.to(tensor.device)
            return tensor.index_select(dim, wanted.nonzero()[:, 0] if wanted.dtype == torch.bool else wanted)

        self._change_beside(chosen)
        super().batch_select_indices(indices)

    def _change_beside(self, change: Any) -> None:
        if self._leads() and self.stored_tokens():
            assert self.keys is not None
            self.beside.change_sequences(len(self.keys), change)

    def _leads(self) -> bool:
        """Return whether this is the one of the layers that share tensors which changes them."""
        return self.number == 0


class LatentLayer(LatentLayerMixin, DynamicLayer):  # type: ignore[misc]
    """One that holds all tokens."""


class LatentSlidingWindowLayer(LatentLayerMixin, DynamicSlidingWindowLayer):  # type: ignore[misc]
    """One that holds those of a sliding window."""


LATENT_LAYERS: dict[type[CacheLayerMixin], type[LatentLayerMixin]] = {
    DynamicLayer: LatentLayer,
    DynamicSlidingWindowLayer: LatentSlidingWindowLayer,
}
