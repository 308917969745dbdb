"""What an attention module was handed in one pass: which of it belongs to tokens is found by numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from transformers.cache_utils import Cache


@dataclass(frozen=True)
class Call:
    """The arguments of an attention module.

    Attributes:
        args: by position.
        kwargs: by name.
        cache: the one among them.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    cache: Cache | None

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """Return the call; the cache is found by its class, since its name differs between releases."""
        caches = [value for value in (*args, *kwargs.values()) if isinstance(value, Cache)]
        return cls(args, dict(kwargs), caches[0] if caches else None)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors among the arguments, by where they are, also those in tuples."""
        leaves, _ = pytree.tree_flatten_with_path((self.args, self.kwargs), is_leaf=_is_cache)
        return {pytree.keystr(path): leaf for path, leaf in leaves if isinstance(leaf, Tensor)}

    def replaced(self, tensor_for: Callable[[str, Tensor], Tensor | None], cache: Cache) -> Call:
        """Return the same call with other tensors and another cache."""

        def exchanged(path: Any, leaf: Any) -> Any:
            if isinstance(leaf, Cache):
                return cache
            return tensor_for(pytree.keystr(path), leaf) if isinstance(leaf, Tensor) else leaf

        args, kwargs = pytree.tree_map_with_path(exchanged, (self.args, self.kwargs), is_leaf=_is_cache)
        return Call(args, kwargs, cache)


def _is_cache(value: Any) -> bool:
    return isinstance(value, Cache)


@dataclass(frozen=True)
class Roles:
    """What becomes of tensors among the arguments when an attention module is run again for tokens of the past.

    Attributes:
        stored: paths of those that are kept for each token, with the dimension that counts tokens.
        blank: paths of those that do not matter, which are zeros then, with that dimension.
        constant: paths of those that are alike in each call.
    All others, such as masks, are left out.
    """

    stored: dict[str, int]
    blank: dict[str, int]
    constant: frozenset[str]

    @classmethod
    def seen_in(cls, calls: tuple[dict[str, Tensor], dict[str, Tensor]], tokens: tuple[int, int]) -> Roles:
        """Return what two calls with different numbers of tokens show; nothing is known to be blank yet."""
        stored, constant = {}, set()
        for path, first in calls[0].items():
            second = calls[1].get(path)
            if second is None or first.ndim != second.ndim:
                continue
            sizes = list(zip(first.shape, second.shape, strict=True))
            differing = [dim for dim, (one, other) in enumerate(sizes) if one != other]
            if not differing:
                constant.add(path)
            elif len(differing) == 1 and sizes[differing[0]] == tokens:
                stored[path] = differing[0]
        return cls(stored, {}, frozenset(constant))

    def without(self, path: str) -> Roles:
        """Return the roles with a stored argument taken for one that does not matter."""
        stored = {other: dim for other, dim in self.stored.items() if other != path}
        return Roles(stored, {**self.blank, path: self.stored[path]}, self.constant)


def blank_like(tensor: Tensor, dim: int, tokens: int) -> Tensor:
    """Return zeros of the shape of a tensor but for its tokens, which take no memory."""
    shape = [tokens if place == dim else size for place, size in enumerate(tensor.shape)]
    return torch.zeros((), dtype=tensor.dtype, device=tensor.device).expand(shape)
