from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from eckart.blocks.tensor_cache import ScratchSpace, TensorCache, TensorCacheRecord
from eckart.errors import CheckpointError

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(2, 5, 3), (2, 5, 3), (1, 5, 3)]


def filled(dtype: torch.dtype, path: Path | None) -> tuple[TensorCache, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(*shape, generator=generator) for shape in SHAPES]
    cache = TensorCache(dtype, path)
    for tensor in tensors:
        cache.append(tensor)
    return cache, [tensor.to(dtype) for tensor in tensors]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("in_memory", [True, False])
def test_what_is_appended_is_read(dtype: torch.dtype, in_memory: bool, tmp_path: Path) -> None:
    cache, expected = filled(dtype, None if in_memory else tmp_path / "x.spool")
    assert len(cache) == 3
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(cache, expected, strict=True))
    assert torch.equal(cache[-1], expected[-1])
    assert torch.equal(cache[1][1], expected[1][1])
    assert cache.nbytes == sum(t.nbytes for t in expected)
    with pytest.raises(IndexError):
        cache[3]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("after", [True, False])
def test_a_saved_spool_opens_again(dtype: torch.dtype, before: bool, after: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.spool"
    cache, expected = filled(dtype, None if before else path)
    record = type(cache.save(path)).model_validate_json(cache.save(path).model_dump_json())
    loaded = TensorCache.load(record, tmp_path, in_memory=after)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(loaded, expected, strict=True))
    if after:
        path.unlink()
        assert torch.equal(loaded[0], expected[0])


def test_a_short_file_is_noticed(tmp_path: Path) -> None:
    cache, _ = filled(torch.float32, None)
    record = cache.save(tmp_path / "x.spool")
    (tmp_path / "x.spool").write_bytes((tmp_path / "x.spool").read_bytes()[:-1])
    with pytest.raises(OSError, match="expected"):
        TensorCache.load(record, tmp_path, in_memory=False)


def test_reading_a_file_does_not_let_it_be_changed(tmp_path: Path) -> None:
    cache, expected = filled(torch.float32, tmp_path / "x.spool")
    cache[0].zero_()
    assert torch.equal(cache[0], expected[0])


def test_deleting_gives_back_the_file(tmp_path: Path) -> None:
    cache, _ = filled(torch.float32, tmp_path / "x.spool")
    cache.delete()
    assert list(tmp_path.iterdir()) == []


def test_a_workspace_without_a_folder_makes_one_when_it_is_needed() -> None:
    scratch = ScratchSpace(in_memory=True)
    scratch.cache("a", torch.float32).append(torch.zeros(2))
    assert scratch.folder is None
    scratch = ScratchSpace(in_memory=False)
    scratch.cache("a", torch.float32).append(torch.zeros(2))
    assert scratch.folder is not None
    assert (scratch.folder / "a.spool").exists()
    scratch.close()
    assert not scratch.folder.exists()


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), max_size=5))
def test_any_shapes(tmp_path_factory: pytest.TempPathFactory, shapes: list[list[int]]) -> None:
    path = tmp_path_factory.mktemp("spool") / "x.spool"
    tensors = [torch.rand(shape) for shape in shapes]
    cache = TensorCache(torch.float32, path)
    for tensor in tensors:
        cache.append(tensor)
    loaded = TensorCache.load(cache.save(path), path.parent, in_memory=False)
    assert [tuple(t.shape) for t in loaded] == [tuple(shape) for shape in shapes]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(loaded, tensors, strict=True))


@pytest.mark.parametrize("name", ["../victim.bin", "{}/victim.bin", "link.spool", "", "pipe.spool", "nowhere.spool"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_names_outside_are_neither_opened_nor_deleted(name: str, in_memory: bool, tmp_path: Path) -> None:
    victim, folder = tmp_path / "victim.bin", tmp_path / "streams"
    victim.write_bytes(bytes(4))
    folder.mkdir()
    (folder / "link.spool").symlink_to(victim)
    os.mkfifo(folder / "pipe.spool")
    record = TensorCacheRecord(file=name.format(tmp_path), dtype="float32", shapes=[(1,)])
    with pytest.raises(CheckpointError):
        TensorCache.load(record, folder, in_memory=in_memory).delete()
    assert victim.read_bytes() == bytes(4)
    assert (folder / "link.spool").is_symlink()


@pytest.mark.parametrize("dtype", ["no_such", "nn", "__name__"])
def test_a_dtype_that_is_none(dtype: str, tmp_path: Path) -> None:
    (tmp_path / "x.spool").write_bytes(bytes(4))
    with pytest.raises(CheckpointError, match="which is no dtype"):
        TensorCache.load(TensorCacheRecord(file="x.spool", dtype=dtype, shapes=[(1,)]), tmp_path, in_memory=False)


@pytest.mark.parametrize("shape", [(-1,), (True,), ("1",), (2**63,)])
def test_a_shape_that_is_none(shape: tuple[object, ...]) -> None:
    with pytest.raises(ValidationError):
        TensorCacheRecord.model_validate({"file": "x", "dtype": "float32", "shapes": [shape]})
