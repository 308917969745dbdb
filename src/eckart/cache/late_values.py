"""Values that are never rebuilt: attention averages latents, and what projects its output makes values of the average.

Attention weights of a head sum to one and do not depend on values, so ``P (Z U^T + b) = (P Z) U^T + b``: latents may be
averaged in place of values, and multiplied for each new token and head in place of each token of the past.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from eckart.cache.latent_codes import LatentCodes
from eckart.layers.linear import weight_matrix

LARGER = 4  # times the size of a head that latents may have, which attention holds once for each head


@dataclass(eq=False)
class LateValues:
    """The multiplication in front of the projection of an attention module's output.

    Attributes:
        path: of the module whose outputs are the values.
        projection: the layer that is handed what attention gives.
        heads: of keys and values.
        size: of a head of the values.
        always: whether it is done whatever it takes, to see that it gives the same.
        counts: whether attention averages ones in place of latents, to see that its weights sum to one.
        farthest: how far from one they are; NaN if that was not looked at.
    """

    path: str
    projection: nn.Module
    heads: int
    size: int
    always: bool = False
    counts: bool = False
    farthest: float = math.nan
    _handles: list[RemovableHandle] = field(default_factory=list)
    _waiting: tuple[Tensor, Tensor] | None = None
    _rank: int = 0
    _counting: bool = False

    def install(self, codes: LatentCodes) -> None:
        """Watch what the projection is handed.

        Args:
            codes: how latents are held.
        """
        self._handles = [self.projection.register_forward_pre_hook(self._before)]
        self._rank = codes.width(codes.source_of(self.path))

    def remove(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()

    @property
    def width(self) -> int:
        """Of the module's outputs."""
        return self.heads * self.size

    def pays(self, new: int) -> bool:
        """Return whether this takes less work than values, and not much more room, for so many tokens that attend."""
        queries = in_features(self.projection) // self.size
        if self.always or self.counts:
            return True
        added = new * queries * max(self._rank - self.size, 0)  # products for a token of the past
        return self._rank <= LARGER * self.size and added < self.width * self._rank

    def values(self, codes: LatentCodes, stored: Tensor) -> Tensor:
        """Return what attention is to take for values, (batch, heads, tokens, rank).

        Args:
            codes: how latents are held.
            stored: the latents of all tokens.
        """
        latents = codes.numbers(stored)[codes.source_of(self.path)]
        self._counting = self.counts
        if self.counts:
            return latents.new_ones(len(latents), self.heads, latents.shape[1], self.size)
        matrix, bias = codes.map_of(self.path, latents)
        self._waiting = matrix.reshape(self.heads, self.size, -1), bias.reshape(self.heads, self.size)
        return latents[:, None].expand(-1, self.heads, -1, -1)

    def forget(self) -> None:
        """Forget what is waiting: the pass is over."""
        self._waiting, self._counting = None, False

    def _before(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._counting:
            self._counting = False
            self.farthest = float((args[0] - 1).abs().max())
        if self._waiting is None:
            return None
        (matrix, bias), self._waiting = self._waiting, None
        averaged: Tensor = args[0]
        parts = averaged.reshape(*averaged.shape[:-1], self.heads, -1, matrix.shape[-1])
        outputs = torch.einsum("...agr,adr->...agd", parts, matrix) + bias[:, None]
        return (outputs.flatten(-3), *args[1:])


def in_features(layer: nn.Module) -> int:
    """Return how many numbers a token has that a layer is handed."""
    known = getattr(layer, "in_features", None)
    return known if isinstance(known, int) else weight_matrix(layer).shape[1]
