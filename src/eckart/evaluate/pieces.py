"""Reads windows in pieces, so that a model looks at what its key-value cache holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eckart.errors import EckartError
from eckart.evaluate.caches import CacheKind, cache_bytes
from eckart.evaluate.windows import name_of_cache

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PieceReader:
    """Returns logits of windows from a model that is handed them piece by piece.

    Args:
        model: a causal language model, which uses caches of that kind from now on.
        kind: of cache; each window has a new one.
        piece: tokens that the model is handed at once. The first piece is read from no cache.

    Attributes:
        cache: of the last window.
        token_bytes: what it held in the end, in bytes a token.

    Raises:
        EckartError: the model cannot have such a cache, or pieces are shorter than one token.
    """

    def __init__(self, model: PreTrainedModel, kind: CacheKind, piece: int) -> None:
        if piece < 1:
            raise EckartError(f"A piece has one token or more, found {piece}.")
        self.piece = piece
        self.token_bytes = 0.0
        self._make_cache = kind.prepare(model)
        self.cache = self._make_cache()

    def __call__(self, model: PreTrainedModel, window: Tensor) -> Tensor:
        """Return the logits of a window, (length, vocabulary), where the model is.

        Args:
            model: that was prepared.
            window: (1, length) int64.

        Raises:
            EckartError: the model fails.
        """
        if window.shape[1] <= self.piece:
            raise EckartError(
                f"Windows of {window.shape[1]} tokens are one piece of {self.piece}, and nothing is read from a cache. "
                "Use a shorter --piece or a longer --length."
            )
        self.cache = cache = self._make_cache()
        name, found = name_of_cache(model), []
        try:
            for part in torch.split(window.to(model.device), self.piece, dim=1):
                found.append(model(input_ids=part, use_cache=True, **{name: cache}).logits[0])
        except (IndexError, RuntimeError, ValueError) as error:
            raise EckartError(
                f"{type(model).__name__} cannot read windows in pieces from a {type(cache).__name__}: {error}."
            ) from error
        self.token_bytes = cache_bytes(cache) / window.shape[1]
        return torch.cat(found)
