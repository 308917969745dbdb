from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from eckart.checkpoint.read_ahead import ReadAhead


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Ranges of bytes that the system was asked for."""
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "POSIX_FADV_WILLNEED", 3, raising=False)
    monkeypatch.setattr(
        os, "posix_fadvise", lambda file, start, length, advice: found.append((start, length)), raising=False
    )
    return found


def test_the_bytes_of_the_tensors_are_asked_for(asked: list[tuple[int, int]], tmp_path: Path) -> None:
    tensors = {name: torch.randn(3, 5) for name in ("a", "b", "c")}
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    ahead = ReadAhead()
    ahead.want([(path, "b"), (path, "a")])
    content = path.read_bytes()
    found = [torch.frombuffer(bytearray(content[start : start + n]), dtype=torch.float32) for start, n in asked]
    assert torch.equal(found[0], tensors["b"].flatten())
    assert torch.equal(found[1], tensors["a"].flatten())


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, (2).to_bytes(8, "little") + b"{}"])
def test_what_cannot_be_found_is_left_to_whoever_reads_it(
    content: bytes, asked: list[tuple[int, int]], tmp_path: Path
) -> None:
    (tmp_path / "damaged.safetensors").write_bytes(content)
    ReadAhead().want([(tmp_path / "damaged.safetensors", "a"), (tmp_path / "gone.safetensors", "a")])
    assert asked == []


def test_a_system_that_cannot_be_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    ReadAhead().want([(tmp_path / "gone.safetensors", "a")])
