from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eckart.checkpoint.files import (
    INDEX_NAME,
    PART,
    delete_all_but,
    rename_shards,
    repack,
    write_index,
    write_shard,
    write_text,
)


def test_a_shard_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "eckart-block-00000.safetensors"
    write_shard(path, {"a": torch.arange(4.0)})
    assert torch.equal(load_file(path)["a"], torch.arange(4.0))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if os.name == "posix":
        (tmp_path / "plain").touch()
        assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_text(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"


def test_the_index_names_the_file_of_each_tensor(tmp_path: Path) -> None:
    write_shard(tmp_path / "eckart-a.safetensors", {"x": torch.zeros(2), "y": torch.zeros(2)})
    write_shard(tmp_path / "eckart-b.safetensors", {"z": torch.zeros(2)})
    write_index(tmp_path)
    index = json.loads((tmp_path / INDEX_NAME).read_text())
    assert index["weight_map"] == {
        "x": "eckart-a.safetensors",
        "y": "eckart-a.safetensors",
        "z": "eckart-b.safetensors",
    }


def test_standard_names_are_replaced(tmp_path: Path) -> None:
    write_shard(tmp_path / "model-00001-of-00002.safetensors", {"x": torch.zeros(2)})
    write_shard(tmp_path / "model-00002-of-00002.safetensors", {"y": torch.zeros(2)})
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    rename_shards(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "eckart-00001-of-00002.safetensors",
        "eckart-00002-of-00002.safetensors",
        INDEX_NAME,
    ]


def test_delete_all_but(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).touch()
    delete_all_but(tmp_path, ["b", "z"])
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize(("size", "files"), [(1, 5), (24, 4), (32, 2), (48, 2), (10_000, 1)])
def test_files_of_a_size_that_was_asked_for(size: int, files: int, tmp_path: Path) -> None:
    tensors = {name: torch.full((n,), float(n)) for name, n in zip("abcde", (2, 4, 2, 6, 2), strict=True)}
    write_shard(tmp_path / "eckart-block-00000.safetensors", {name: tensors[name] for name in "abc"})
    write_shard(tmp_path / "eckart-block-00001.safetensors", {name: tensors[name] for name in "de"})
    repack(tmp_path, size)
    found = [load_file(path) for path in sorted(tmp_path.glob(f"{PART}*"))]
    assert len(found) == files
    assert all(len(part) == 1 or sum(t.nbytes for t in part.values()) <= size for part in found)
    again = {name: tensor for part in found for name, tensor in part.items()}
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)
