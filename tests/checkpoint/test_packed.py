"""Codes in the words of another library, and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from compressed_tensors.compressors import pack_to_int32

from eckart.checkpoint.packed import (
    PACKED,
    SCALE,
    SHAPE,
    STANDARD_NAME,
    FromPacked,
    check_packed,
    codes_of,
    conversions,
    described_as_ours,
)
from eckart.checkpoint.tensors import StoredTensor
from eckart.errors import CheckpointError
from eckart.maths.packing import pack


@pytest.mark.parametrize("columns", [1, 7, 8, 30, 32, 65])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_codes_come_back(bits: int, columns: int) -> None:
    torch.manual_seed(columns)
    codes = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (5, columns), dtype=torch.int8)
    found = codes_of(pack_to_int32(codes, bits), bits, columns)
    expected = pack(codes, bits)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_what_the_operation_is_handed() -> None:
    codes = torch.arange(-8, 8, dtype=torch.int8)[None]
    packed, shape = pack_to_int32(codes, 8), torch.tensor([1, 16])
    found = FromPacked({"layer": 8}).convert({"a": [packed], "b": [shape]}, [], [], full_layer_name="layer.codes")
    assert torch.equal(found["layer.codes"], codes)
    for wrong in (
        {"a": [packed]},
        {"b": [shape]},
        {"a": [packed.float()], "b": [shape]},
        {"a": packed, "b": shape[:1]},
    ):
        with pytest.raises(CheckpointError, match=r"lack weight_packed or weight_shape where layer\.codes is"):
            FromPacked({"layer": 8}).convert(wrong, [], [], full_layer_name="layer.codes")


def test_each_layer_has_bits_of_its_own() -> None:
    bits = {"model.a": 2, "model.b": 8, "c": 4}
    for name, path in (("model.a", "model.a"), ("b", "model.b"), ("model.c", "c")):
        codes = torch.tensor([[-2, 1, 0, -1]], dtype=torch.int8)
        given = {"a": [pack_to_int32(codes, bits[path])], "b": [torch.tensor([1, 4])]}
        found = FromPacked(bits).convert(given, [], [], full_layer_name=f"{name}.codes")
        assert torch.equal(found[f"{name}.codes"], pack(codes, bits[path]))
    with pytest.raises(CheckpointError, match=r"codes of model\.d, which eckart/quantization\.json does not name"):
        FromPacked(bits).convert(given, [], [], full_layer_name="model.d.codes")


def test_what_the_files_hold() -> None:
    stored = {
        f"layer.{part}": StoredTensor(Path("file"), dtype, (1, 1))
        for part, dtype in ((PACKED, "I32"), (SHAPE, "I64"), (SCALE, "BF16"))
    }
    check_packed(["layer"], stored)
    for name in stored:
        with pytest.raises(CheckpointError, match=f"lack {name}"):
            check_packed(["layer"], {other: tensor for other, tensor in stored.items() if other != name})
    stored[f"layer.{PACKED}"] = StoredTensor(Path("file"), "F32", (1, 1))
    with pytest.raises(CheckpointError, match=r"hold as F32, and not as I32, layer\.weight_packed"):
        check_packed(["layer"], stored)


def test_names_are_those_of_our_layers() -> None:
    rename, convert = conversions({"a.b": 4})
    assert rename.rename_source_key("a.b.weight_scale")[0] == "a.b.scale"
    assert rename.rename_source_key("a.b.weight")[0] == "a.b.weight"
    assert convert.rename_source_key("a.b.weight_packed")[0] == "a.b.codes"
    assert convert.rename_source_key("a.b.weight_shape")[0] == "a.b.codes"


def test_which_folders_are_ours(tmp_path: Path) -> None:
    assert described_as_ours(tmp_path) is None
    assert described_as_ours("no-such/model") is None
    (tmp_path / "eckart").mkdir()
    with pytest.raises(CheckpointError, match=r"quantization\.json is gone, .* Copy or download the folder again"):
        described_as_ours(tmp_path)
    ours = {"quant_method": "eckart", "ranks": {}}
    (tmp_path / STANDARD_NAME).write_text(json.dumps(ours))
    assert described_as_ours(tmp_path) == ours
    for damaged in ("[]", "{}"):
        (tmp_path / STANDARD_NAME).write_text(damaged)
        with pytest.raises(CheckpointError, match="holds no object of the method eckart"):
            described_as_ours(tmp_path)
