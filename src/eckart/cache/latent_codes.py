"""How latents are held: as they are, or as whole numbers of few bits with a scale for each token and layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from eckart.cache.rounded_maps import RotatedBlocks, RotatedMap, RoundedMap
from eckart.cache.sources import LatentSource, OutputSource
from eckart.errors import EckartError
from eckart.maths.packing import pack, packed_width, unpack

WHOLE = 16  # bits: the dtype of the model
SCALE = torch.bfloat16  # with the range of float32
SMALLEST = 1e-30
BITS = (WHOLE, 8, 6, 5, 4, 3)


class LatentCodes(ABC):
    """Between the latents of some layers and one tensor that holds them.

    Attributes:
        sources: the layers.
        wanted: paths of the modules whose outputs are asked for.
        is_exact: whether outputs come back as they were.
    """

    is_exact: ClassVar[bool]

    def __init__(self, sources: Sequence[LatentSource], wanted: frozenset[str]) -> None:
        self.sources = list(sources)
        self.wanted = wanted
        self._affine: dict[str, tuple[object, Tensor, Tensor]] = {}
        self._sums: list[tuple[float, ...]] = []

    @abstractmethod
    def encode(self, latents: Sequence[Tensor]) -> Tensor:
        """Return what is stored, (batch, 1, tokens, width), of latents (batch, tokens, rank) of each source."""

    @abstractmethod
    def numbers(self, stored: Tensor) -> list[Tensor]:
        """Return what is multiplied to outputs, (batch, tokens, width) of each source, from what is stored."""

    @abstractmethod
    def outputs(self, source: int, numbers: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        """Return outputs of modules, (batch, tokens, out features) by path.

        Args:
            source: its number.
            numbers: of that source.
            wanted: paths of its modules.
        """

    def decode(self, stored: Tensor, besides: Collection[str] = ()) -> dict[str, Tensor]:
        """Return outputs of modules, (batch, tokens, out features) by path, from what is stored.

        Args:
            stored: from :meth:`encode`.
            besides: paths of modules whose outputs are not asked for.
        """
        found: dict[str, Tensor] = {}
        for number, numbers in enumerate(self.numbers(stored)):
            wanted = [path for path in self._wanted_of(self.sources[number]) if path not in besides]
            if wanted:
                found |= self.outputs(number, numbers, wanted)
        return found

    def begin(self) -> None:
        """Make maps anew if weights have changed since the last cache was begun."""
        sums = [source.sums() for source in self.sources]
        if sums != self._sums:
            self.forget()
            self._sums = sums

    def forget(self) -> None:
        """Forget the maps."""
        self._affine = {}

    def source_of(self, path: str) -> int:
        """Return the number of the source that a module's outputs follow from."""
        return next(number for number, source in enumerate(self.sources) if path in source.outputs)

    def map_of(self, path: str, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return how the outputs of a module follow from numbers; it is made again where weights have changed.

        Args:
            path: of the module.
            like: a tensor with the dtype and on the device of latents.

        Returns:
            The matrix (out features, width), and the outputs of zeros (out features,).
        """
        number = self.source_of(path)
        state, width = (like.dtype, like.device, *self.sources[number].state()), self.width(number)
        if path not in self._affine or self._affine[path][0] != state:
            rows = torch.eye(width + 1, width, dtype=like.dtype, device=like.device)
            with torch.no_grad():
                found = self.outputs(number, rows[None], [path])[path][0]
            self._affine[path] = state, (found[:-1] - found[-1]).T, found[-1]
        return self._affine[path][1:]

    @abstractmethod
    def width(self, source: int) -> int:
        """Return how many numbers a token has of a source."""

    @abstractmethod
    def token_bytes(self, dtype: torch.dtype) -> int:
        """Return the bytes of a token in a model of that dtype."""

    def _wanted_of(self, source: LatentSource) -> list[str]:
        return [path for path in source.outputs if path in self.wanted]


class WholeLatents(LatentCodes):
    """In the dtype of the model: nothing is lost."""

    is_exact = True

    def encode(self, latents: Sequence[Tensor]) -> Tensor:
        """See :meth:`LatentCodes.encode`."""
        return torch.cat(list(latents), dim=-1)[:, None]

    def numbers(self, stored: Tensor) -> list[Tensor]:
        """See :meth:`LatentCodes.numbers`; they are the latents."""
        return list(torch.split(stored[:, 0], [source.rank for source in self.sources], dim=-1))

    def outputs(self, source: int, numbers: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`LatentCodes.outputs`."""
        return self.sources[source].decode(numbers, wanted)

    def width(self, source: int) -> int:
        """See :meth:`LatentCodes.width`."""
        return self.sources[source].rank

    def token_bytes(self, dtype: torch.dtype) -> int:
        """See :meth:`LatentCodes.token_bytes`."""
        width: int = dtype.itemsize
        return sum(source.rank for source in self.sources) * width


class RoundedLatents(LatentCodes):
    """In 3 to 8 bits.

    A token takes, for each source, its codes and the scale, which are bytes beside one another. The codes are turned
    latents (:class:`RotatedMap`). Maps are made when the first tokens come, and again where weights have changed.

    Attributes:
        bits: of a code.
    """

    is_exact = False

    def __init__(self, sources: Sequence[LatentSource], wanted: frozenset[str], bits: int) -> None:
        super().__init__(sources, wanted)
        self.bits = bits
        self._maps: list[RoundedMap] = []
        self._state: tuple[object, ...] = ()

    def encode(self, latents: Sequence[Tensor]) -> Tensor:
        """See :meth:`LatentCodes.encode`; uint8."""
        parts, largest, maps = [], 2 ** (self.bits - 1) - 1, self._maps_for(latents[0])
        with torch.autocast(latents[0].device.type, enabled=False):
            for latent, turned in zip(latents, maps, strict=True):
                numbers = turned.numbers(latent)
                # At least so that zeros are not divided by zero; as many bytes in any model.
                scales = (numbers.abs().amax(dim=-1, keepdim=True) / largest).clamp_min(SMALLEST).to(SCALE)
                codes = (numbers / scales).round().clamp(-largest, largest).to(torch.int8)
                packed = pack(codes.flatten(0, 1), self.bits).view(torch.uint8)
                parts += [packed.view(*codes.shape[:2], -1), scales.view(torch.uint8)]
        return torch.cat(parts, dim=-1)[:, None]

    def numbers(self, stored: Tensor) -> list[Tensor]:
        """See :meth:`LatentCodes.numbers`; they are the turned latents, in float32."""
        widths = [self.width(number) for number in range(len(self.sources))]
        sizes = [size for width in widths for size in (packed_width(width, self.bits), SCALE.itemsize)]
        parts = torch.split(stored[:, 0], sizes, dim=-1)
        found = []
        for width, codes, scales in zip(widths, parts[::2], parts[1::2], strict=True):
            rows = codes.contiguous().flatten(0, 1)
            whole = unpack(rows.view(torch.int8) if self.bits == 8 else rows, self.bits, width)
            found.append(whole.view(*codes.shape[:2], width) * scales.contiguous().view(SCALE).float())
        return found

    def outputs(self, source: int, numbers: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`LatentCodes.outputs`."""
        turned, place = self._maps[source], 0
        found: dict[str, Tensor] = {}
        for path in self._wanted_of(self.sources[source]):
            part = self.sources[source].outputs[path]
            rows = slice(place, place + part.stop - part.start)
            place = rows.stop
            if path in wanted:
                with torch.autocast(numbers.device.type, enabled=False):
                    found[path] = turned.outputs(numbers, rows)
        return found

    def forget(self) -> None:
        """See :meth:`LatentCodes.forget`."""
        super().forget()
        self._state = ()

    def width(self, source: int) -> int:
        """See :meth:`LatentCodes.width`: of more latents than outputs there are no more numbers than these."""
        own = self.sources[source]
        sizes = [own.outputs[path].stop - own.outputs[path].start for path in self._wanted_of(own)]
        width: int = min(own.rank, sum(sizes))
        return width

    def token_bytes(self, dtype: torch.dtype) -> int:
        """See :meth:`LatentCodes.token_bytes`."""
        codes: int = sum(packed_width(self.width(number), self.bits) for number in range(len(self.sources)))
        scale: int = SCALE.itemsize
        return codes + len(self.sources) * scale

    def _maps_for(self, latents: Tensor) -> list[RoundedMap]:
        state = (latents.dtype, latents.device, *(part for source in self.sources for part in source.state()))
        if state != self._state:
            with torch.no_grad():
                self._maps = [
                    RotatedBlocks.of(source, latents)
                    if isinstance(source, OutputSource)
                    else RotatedMap.of(source, self._wanted_of(source), latents)
                    for source in self.sources
                ]
            self._state = state
        return self._maps


def check_bits(bits: int | None, *, needed: bool = False) -> None:
    """Raise if latents cannot be held in so many bits; None stands for no latents.

    Args:
        bits: of a latent.
        needed: whether there are to be latents.

    Raises:
        EckartError: says in which they can.
    """
    if (bits is not None or needed) and (type(bits) is not int or bits not in BITS):
        raise EckartError(f"Latents take {', '.join(map(str, BITS))} bits, found {bits!r}.")


def latent_codes(sources: Sequence[LatentSource], wanted: frozenset[str], bits: int) -> LatentCodes:
    """Return how latents are held in so many bits a number, 16 for the dtype of the model."""
    return WholeLatents(sources, wanted) if bits == WHOLE else RoundedLatents(sources, wanted, bits)
