"""Codes of 2 to 6 and of 8 bits in bytes: a row is a stream of bits, from the lowest bit of its first byte on.

Below 8 bits each code is stored with half of its range added, and a row is filled up to whole bytes. These are the
bytes of the words of the format ``pack-quantized`` of compressed-tensors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

WIDTHS = (2, 3, 4, 5, 6, 8)  # bits of a code
UNITS = {2: (4, 1), 3: (8, 3), 4: (2, 1), 5: (8, 5), 6: (4, 3)}  # codes that end with a byte, and their bytes


def packed_width(columns: int, bits: int) -> int:
    """Return the bytes of a row of ``columns`` codes."""
    return math.ceil(columns * bits / 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Return codes, (rows, columns) int8, as bytes: (rows, :func:`packed_width`) uint8; of 8 bits as they are."""
    if bits == 8:
        return codes
    together, size = UNITS[bits]
    half = 2 ** (bits - 1)
    # What fills a row up is zero, like the codes: its bits are those of the middle of the range.
    units = _in_units(codes, together).to(_words(size)) + half
    words = sum(units[..., place] << bits * place for place in range(together))
    assert isinstance(words, Tensor)
    parts = [(words >> 8 * place) & 255 for place in range(size)]
    return torch.stack(parts, dim=-1).to(torch.uint8).flatten(1)[:, : packed_width(codes.shape[1], bits)].contiguous()


def unpack(packed: Tensor, bits: int, columns: int) -> Tensor:
    """Return what :func:`pack` packed, (rows, columns) int8."""
    if bits == 8:
        return packed
    together, size = UNITS[bits]
    units = _in_units(packed, size)
    if size > 1:  # codes lie over the ends of bytes
        units = units.to(torch.int32)
    codes = []
    for place in range(together):
        byte, shift = divmod(bits * place, 8)
        # No more than two bytes at once: some runtimes divide in floats.
        word = units[..., byte] if shift + bits <= 8 else units[..., byte] + units[..., byte + 1] * 256
        codes.append(_shifted(word, shift) & (2**bits - 1))
    return torch.stack(codes, dim=-1).flatten(1)[:, :columns].to(torch.int8) - int(2 ** (bits - 1))


def _in_units(rows: Tensor, size: int) -> Tensor:
    """Return rows, filled up with zeros, as (rows, units, size)."""
    filled = functional.pad(rows, (0, -rows.shape[1] % size))
    return filled.reshape(rows.shape[0], filled.shape[1] // size, size)  # and no len(): of a graph, that is a number


def _words(size: int) -> torch.dtype:
    return torch.int32 if size < 4 else torch.int64


def _shifted(words: Tensor, places: int) -> Tensor:
    # A shift takes a hundredth of the time of a division, and not all runtimes that graphs are exported to have one.
    if not places:
        return words
    if torch.compiler.is_exporting():
        divided: Tensor = torch.div(words, 2**places, rounding_mode="floor")
        return divided
    shifted: Tensor = words >> places
    return shifted
