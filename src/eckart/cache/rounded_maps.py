"""How latents are turned before they are rounded, and outputs follow from what is rounded."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from eckart.cache.sources import LatentSource, OutputSource
from eckart.layers.linear import bias_vector

LARGEST_BLOCK = 128  # numbers that are turned together
# What is turned may be larger than float16 holds, and a scale smaller.
EXACT = torch.float32


class RoundedMap(ABC):
    """Between latents and the numbers that are rounded, and from these to outputs.

    Attributes:
        width: numbers a token that are rounded.
    """

    width: int

    @abstractmethod
    def numbers(self, latents: Tensor) -> Tensor:
        """Return the numbers that are rounded, (batch, tokens, width), of latents (batch, tokens, rank)."""

    @abstractmethod
    def outputs(self, numbers: Tensor, rows: slice) -> Tensor:
        """Return some of the outputs, (batch, tokens, rows), from such numbers."""


@dataclass(frozen=True)
class RotatedBlocks(RoundedMap):
    """Outputs that are their own latents, turned in blocks, so that no number of a block stands out.

    Attributes:
        rotation: (block, block), orthogonal.
        bias: (out features,), or None.
        width: out features.
        dtype: of latents and outputs.
    """

    rotation: Tensor
    bias: Tensor | None
    width: int
    dtype: torch.dtype

    @classmethod
    def of(cls, source: OutputSource, like: Tensor) -> RotatedBlocks:
        """Return the map of a layer; ``like`` has the dtype of its latents and is where they are."""
        block = math.gcd(source.rank, LARGEST_BLOCK)
        bias = bias_vector(source.layer)
        rotation = random_rotation(block, like.device).to(like.device, EXACT)
        return cls(rotation, None if bias is None else bias.to(like.device, EXACT), source.rank, like.dtype)

    def numbers(self, latents: Tensor) -> Tensor:
        """See :meth:`RoundedMap.numbers`."""
        return self._blockwise(latents.to(EXACT), self.rotation)

    def outputs(self, numbers: Tensor, rows: slice) -> Tensor:
        """See :meth:`RoundedMap.outputs`."""
        found = self._blockwise(numbers, self.rotation.T)
        return (found if self.bias is None else found + self.bias)[..., rows].to(self.dtype)

    def _blockwise(self, numbers: Tensor, matrix: Tensor) -> Tensor:
        blocks = numbers.reshape(*numbers.shape[:-1], -1, len(matrix))
        return functional.linear(blocks, matrix).reshape(numbers.shape)


def random_rotation(size: int, device: torch.device) -> Tensor:
    """Return an orthogonal matrix (size, size) float64, the same for each size."""
    random = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size)).to(device)
    rotation: Tensor = torch.linalg.qr(random).Q
    return rotation


@dataclass(frozen=True)
class RotatedMap(RoundedMap):
    """Outputs as a linear map of latents that are turned so that rounding them hurts least.

    With the outputs ``P z + b`` and ``P = Q R`` (Q with orthonormal columns), latents ``H R z`` are held, H a random
    orthogonal matrix: an error of theirs is as long in the outputs, ``Q H^T`` being an isometry, and no number of a
    token stands out, so that one scale serves all of them (as in QuaRot, arXiv 2404.00456).

    Attributes:
        turn: ``H R``, (width, rank); of more latents than outputs there are no more numbers than these.
        back: ``Q H^T``, (out features of the wanted modules, width).
        bias: (out features of the wanted modules,).
        dtype: of latents and outputs.
    """

    turn: Tensor
    back: Tensor
    bias: Tensor
    dtype: torch.dtype

    @property
    def width(self) -> int:  # type: ignore[override]
        """See :class:`RoundedMap`."""
        return len(self.turn)

    @classmethod
    def of(cls, source: LatentSource, wanted: Sequence[str], like: Tensor) -> RotatedMap:
        """Return the map of a layer.

        Args:
            source: the layer.
            wanted: paths of the modules whose outputs matter.
            like: a tensor with the dtype and on the device of latents.
        """
        columns = torch.eye(source.rank + 1, source.rank, dtype=like.dtype, device=like.device)  # and the outputs of 0
        found = source.decode(columns[None], wanted)
        rows = torch.cat([found[path][0] for path in wanted], dim=-1).double()
        bias = rows[-1]
        basis, turn = torch.linalg.qr((rows[:-1] - bias).T)
        rotation = random_rotation(len(turn), turn.device)
        turned, back = (rotation @ turn).to(EXACT), (basis @ rotation.T).to(EXACT)
        return cls(turned, back, bias.to(EXACT), like.dtype)

    def numbers(self, latents: Tensor) -> Tensor:
        """See :meth:`RoundedMap.numbers`."""
        return functional.linear(latents.to(EXACT), self.turn)

    def outputs(self, numbers: Tensor, rows: slice) -> Tensor:
        """See :meth:`RoundedMap.outputs`."""
        return functional.linear(numbers, self.back[rows], self.bias[rows]).to(self.dtype)
