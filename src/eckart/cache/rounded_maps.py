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
    """

    rotation: Tensor
    bias: Tensor | None
    width: int

    @classmethod
    def of(cls, source: OutputSource, like: Tensor) -> RotatedBlocks:
        """Return the map of a layer; ``like`` has the dtype of its latents and is where they are."""
        block = math.gcd(source.rank, LARGEST_BLOCK)
        bias = bias_vector(source.layer)
        return cls(random_rotation(block, like.device).to(like), None if bias is None else bias.to(like), source.rank)

    def numbers(self, latents: Tensor) -> Tensor:
        """See :meth:`RoundedMap.numbers`."""
        return self._blockwise(latents, self.rotation)

    def outputs(self, numbers: Tensor, rows: slice) -> Tensor:
        """See :meth:`RoundedMap.outputs`."""
        found = self._blockwise(numbers, self.rotation.T)
        return (found if self.bias is None else found + self.bias)[..., rows]

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
    """

    turn: Tensor
    back: Tensor
    bias: Tensor

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
        return cls((rotation @ turn).to(like), (basis @ rotation.T).to(like), bias.to(like))

    def numbers(self, latents: Tensor) -> Tensor:
        """See :meth:`RoundedMap.numbers`."""
        return functional.linear(latents, self.turn)

    def outputs(self, numbers: Tensor, rows: slice) -> Tensor:
        """See :meth:`RoundedMap.outputs`."""
        return functional.linear(numbers, self.back[rows], self.bias[rows])
