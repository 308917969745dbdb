"""How latents are held: as they are, or as whole numbers of few bits with a scale for each token and layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from eckart.cache.sources import LatentSource
from eckart.errors import EckartError
from eckart.maths.packing import pack, packed_width, unpack

BITS = (16, 8, 6, 5, 4, 3)


class LatentCodes(ABC):
    """Between the latents of some layers and one tensor that holds them.

    Attributes:
        sources: the layers.
        wanted: paths of the modules whose outputs are asked for.
    """

    def __init__(self, sources: Sequence[LatentSource], wanted: frozenset[str]) -> None:
        self.sources = list(sources)
        self.wanted = wanted

    @abstractmethod
    def encode(self, latents: Sequence[Tensor]) -> Tensor:
        """Return what is stored, (batch, 1, tokens, width), of latents (batch, tokens, rank) of each source."""

    @abstractmethod
    def decode(self, stored: Tensor) -> dict[str, Tensor]:
        """Return outputs of modules, (batch, tokens, out features) by path, from what is stored."""

    @abstractmethod
    def token_bytes(self, dtype: torch.dtype) -> int:
        """Return the bytes of a token in a model of that dtype."""

    def _wanted_of(self, source: LatentSource) -> list[str]:
        return [path for path in source.outputs if path in self.wanted]


class WholeLatents(LatentCodes):
    """In the dtype of the model: nothing is lost."""

    def encode(self, latents: Sequence[Tensor]) -> Tensor:
        """See :meth:`LatentCodes.encode`."""
        return torch.cat(list(latents), dim=-1)[:, None]

    def decode(self, stored: Tensor) -> dict[str, Tensor]:
        """See :meth:`LatentCodes.decode`."""
        outputs: dict[str, Tensor] = {}
        parts = torch.split(stored[:, 0], [source.rank for source in self.sources], dim=-1)
        for source, latents in zip(self.sources, parts, strict=True):
            outputs |= source.decode(latents, self._wanted_of(source))
        return outputs

    def token_bytes(self, dtype: torch.dtype) -> int:
        """See :meth:`LatentCodes.token_bytes`."""
        width: int = dtype.itemsize
        return sum(source.rank for source in self.sources) * width


@dataclass(frozen=True)
class RotatedMap:
    """Outputs as a linear map of latents that are turned so that rounding them hurts least.

    With the outputs ``P z + b`` and ``P = Q R`` (Q with orthonormal columns), latents ``H R z`` are held, H a random
    orthogonal matrix: an error of theirs is as long in the outputs, ``Q H^T`` being an isometry, and no number of a
    token stands out, so that one scale serves all of them (as in QuaRot, arXiv 2404.00456).

    Attributes:
        turn: ``H R``, (rank, rank).
        outputs: ``Q H^T``, (out features of the wanted modules, rank).
        bias: (out features of the wanted modules,).
    """

    turn: Tensor
    outputs: Tensor
    bias: Tensor

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
        generator = torch.Generator().manual_seed(source.rank)
        random = torch.randn(len(turn), len(turn), dtype=torch.float64, generator=generator).to(turn.device)
        rotation = torch.linalg.qr(random).Q
        return cls((rotation @ turn).to(like), (basis @ rotation.T).to(like), bias.to(like))


class RoundedLatents(LatentCodes):
    """In 3 to 8 bits.

    A token takes, for each source, its codes and the scale, which are bytes beside one another. The codes are turned
    latents (:class:`RotatedMap`). Maps are made once, when the first tokens come, for the device that these are on.

    Attributes:
        bits: of a code.
    """

    def __init__(self, sources: Sequence[LatentSource], wanted: frozenset[str], bits: int) -> None:
        super().__init__(sources, wanted)
        self.bits = bits
        self._maps: list[RotatedMap] = []

    def encode(self, latents: Sequence[Tensor]) -> Tensor:
        """See :meth:`LatentCodes.encode`; uint8."""
        parts = []
        for latent, turned in zip(latents, self._maps_for(latents[0]), strict=True):
            numbers = functional.linear(latent, turned.turn)
            largest = 2 ** (self.bits - 1) - 1
            scales = (numbers.abs().amax(dim=-1, keepdim=True) / largest).clamp_min(torch.finfo(numbers.dtype).tiny)
            codes = (numbers / scales).round().clamp(-largest, largest).to(torch.int8)
            packed = pack(codes.flatten(0, 1), self.bits).view(torch.uint8)
            parts += [packed.view(*codes.shape[:2], -1), scales.view(torch.uint8)]
        return torch.cat(parts, dim=-1)[:, None]

    def decode(self, stored: Tensor) -> dict[str, Tensor]:
        """See :meth:`LatentCodes.decode`."""
        outputs: dict[str, Tensor] = {}
        maps = self._maps
        dtype = maps[0].turn.dtype
        widths = [width for turned in maps for width in (packed_width(len(turned.turn), self.bits), dtype.itemsize)]
        parts = torch.split(stored[:, 0], widths, dim=-1)
        for source, turned, codes, scales in zip(self.sources, maps, parts[::2], parts[1::2], strict=True):
            width = len(turned.turn)
            rows = codes.contiguous().flatten(0, 1)
            whole = unpack(rows.view(torch.int8) if self.bits == 8 else rows, self.bits, width)
            numbers = whole.view(*codes.shape[:2], width).to(dtype) * scales.contiguous().view(dtype)
            found = functional.linear(numbers, turned.outputs, turned.bias)
            paths = self._wanted_of(source)
            sizes = [source.outputs[path].stop - source.outputs[path].start for path in paths]
            outputs |= dict(zip(paths, torch.split(found, sizes, dim=-1), strict=True))
        return outputs

    def token_bytes(self, dtype: torch.dtype) -> int:
        """See :meth:`LatentCodes.token_bytes`."""
        codes: int = sum(packed_width(self._turned_width(source), self.bits) for source in self.sources)
        scale: int = dtype.itemsize
        return codes + len(self.sources) * scale

    def _turned_width(self, source: LatentSource) -> int:
        """Return how many numbers are held: of more latents than outputs no more than these."""
        sizes = [source.outputs[path].stop - source.outputs[path].start for path in self._wanted_of(source)]
        width: int = min(source.rank, sum(sizes))
        return width

    def _maps_for(self, latents: Tensor) -> list[RotatedMap]:
        if not self._maps or self._maps[0].turn.device != latents.device or self._maps[0].turn.dtype != latents.dtype:
            self._maps = [RotatedMap.of(source, self._wanted_of(source), latents) for source in self.sources]
        return self._maps


def check_bits(bits: int | None) -> None:
    """Raise if latents cannot be held in so many bits; None stands for no latents.

    Raises:
        EckartError: says in which they can.
    """
    if bits is not None and (type(bits) is not int or bits not in BITS):
        raise EckartError(f"Latents take {', '.join(map(str, BITS))} bits, found {bits!r}.")


def latent_codes(sources: Sequence[LatentSource], wanted: frozenset[str], bits: int) -> LatentCodes:
    """Return how latents are held in so many bits a number, 16 for the dtype of the model."""
    return WholeLatents(sources, wanted) if bits == 16 else RoundedLatents(sources, wanted, bits)
