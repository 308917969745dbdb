"""Files that a run reads, and what is done to them meanwhile."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from eckart.checkpoint.unchanged import SourceFiles
from eckart.errors import CheckpointError, DamagedRunError


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path in found:
        path.write_bytes(path.name.encode() * 1000)
    return found


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def test_hashes_are_those_of_the_contents_and_read_once(paths: list[Path]) -> None:
    files = SourceFiles(paths)
    expected = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    assert files.hashes() == expected
    for path in paths:
        path.unlink()
    assert files.hashes() == expected


def test_a_file_that_is_written_before_it_was_read_is_named(paths: list[Path]) -> None:
    files = SourceFiles(paths)
    touch(paths[1])
    with pytest.raises(CheckpointError, match=r"b\.safetensors was changed while it was read\. Start again"):
        files.hashes()


def test_a_new_time_alone_is_no_change_once_the_contents_are_known(paths: list[Path]) -> None:
    files = SourceFiles(paths)
    files.hashes()
    touch(paths[0])
    files.check()
    paths[0].unlink()
    with pytest.raises(CheckpointError, match=r"a\.safetensors cannot be read from the model's files: No such file"):
        files.check()


def test_a_new_time_is_a_change_where_nobody_knows_the_contents(paths: list[Path]) -> None:
    files = SourceFiles(paths)
    files.check()
    touch(paths[0])
    with pytest.raises(CheckpointError, match=r"a\.safetensors was changed while the run read it.*put back the file"):
        files.check()


@pytest.mark.parametrize("number", [0, 1])
def test_other_contents_are_a_change(number: int, paths: list[Path]) -> None:
    files = SourceFiles(paths)
    before = files.hashes()[paths[number].name]
    files.check_content()
    data = paths[number].read_bytes()
    paths[number].write_bytes(data[:-1] + b"?")
    touch(paths[number])  # to be another time for sure
    with pytest.raises(CheckpointError, match=rf"{paths[number].name} was changed"):
        files.check()
    with pytest.raises(DamagedRunError, match=rf"SHA-256 was {before[:16]}\.\.\. .*Start again with --overwrite"):
        files.check_content()
    paths[number].write_bytes(data)
    files.check()
    files.check_content()


def test_a_file_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere cannot be read from the model's files: No such file"):
        SourceFiles([tmp_path / "nowhere"])
