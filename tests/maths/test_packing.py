"""Codes in bytes, against the bits written out one by one and against another library."""

from __future__ import annotations

import pytest
import torch
from compressed_tensors.compressors import pack_to_int32
from hypothesis import given
from hypothesis import strategies as st

from eckart.maths.packing import WIDTHS, pack, packed_width, unpack


def codes_of(bits: int, rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (rows, columns), dtype=torch.int8, generator=generator)


@pytest.mark.parametrize("bits", WIDTHS)
@given(rows=st.integers(1, 4), columns=st.integers(1, 70), seed=st.integers(0, 100))
def test_nothing_is_lost_and_bytes_are_as_few_as_can_be(bits: int, rows: int, columns: int, seed: int) -> None:
    codes = codes_of(bits, rows, columns, seed)
    packed = pack(codes, bits)
    assert packed.shape == (rows, packed_width(columns, bits))
    assert packed.nbytes == rows * -(-columns * bits // 8)
    assert torch.equal(unpack(packed, bits, columns), codes)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_the_bits_of_a_row_one_by_one(bits: int) -> None:
    codes = codes_of(bits, 1, 21)
    stream = [int(code) + 2 ** (bits - 1) >> place & 1 for code in codes[0] for place in range(bits)]
    found = [int(byte) >> place & 1 for byte in pack(codes, bits)[0] for place in range(8)]
    assert found[: len(stream)] == stream


@pytest.mark.parametrize("columns", [32, 64, 40])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_bytes_are_those_of_compressed_tensors(bits: int, columns: int) -> None:
    codes = codes_of(bits, 3, columns)
    words = pack_to_int32(codes, bits)
    theirs = torch.stack([(words >> 8 * place) & 255 for place in range(4)], dim=-1).flatten(1).to(torch.uint8)
    whole = columns * bits // 8
    assert torch.equal(pack(codes, bits)[:, :whole], theirs[:, :whole])


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_an_exported_graph_unpacks_the_same(bits: int) -> None:
    class Unpack(torch.nn.Module):
        def forward(self, packed: torch.Tensor) -> torch.Tensor:
            return unpack(packed, bits, 21)

    codes = codes_of(bits, 3, 21)
    exported = torch.export.export(Unpack(), (pack(codes, bits),))
    assert torch.equal(exported.module()(pack(codes, bits)), codes)
