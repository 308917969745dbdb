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
    codes = [_code(units, bits * place, bits) for place in range(together)]
    return torch.stack(codes, dim=-1).flatten(1)[:, :columns].to(torch.int8) - int(2 ** (bits - 1))


def _code(units: Tensor, start: int, bits: int) -> Tensor:
    """Return the codes, (rows, units), that begin at a bit of each unit of bytes, (rows, units, bytes) uint8."""
    byte, shift = divmod(start, 8)
    over = shift + bits > 8  # it lies over the end of a byte
    if torch.compiler.is_exporting():
        # Not all runtimes that graphs are exported to have shifts, and some divide in floats: two bytes at once do.
        word = units[..., byte].to(torch.int32)
        word = word + units[..., byte + 1].to(torch.int32) * 256 if over else word
        word = torch.div(word, 2**shift, rounding_mode="floor") if shift else word
    else:
        # A byte at a time: what is shifted beyond its end is lost, as it should be.
        word = units[..., byte] >> shift
        word = word | units[..., byte + 1] << (8 - shift) if over else word
    code: Tensor = word & (2**bits - 1)
    return code


def _in_units(rows: Tensor, size: int) -> Tensor:
    """Return rows, filled up with zeros, as (rows, units, size)."""
    filled = functional.pad(rows, (0, -rows.shape[1] % size))
    return filled.reshape(rows.shape[0], filled.shape[1] // size, size)  # and no len(): of a graph, that is a number


def _words(size: int) -> torch.dtype:
    return torch.int32 if size < 4 else torch.int64
