"""What a process beside the first keeps, and what it finds again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from eckart import processes
from eckart.blocks.tensor_cache import TensorCache
from eckart.checkpoint.process_folder import ProcessFolder
from eckart.compression.drift import FollowedTokens
from eckart.compression.records import Records
from eckart.compression.state import WalkState
from eckart.errors import DamagedRunError


class Others:
    """Plays the first process: says how far the run is, and counts how often it is waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.finished: int | None = None
        self.marks: list[list[str]] = []
        self.folder: ProcessFolder | None = None
        monkeypatch.setattr(processes, "rank", lambda: 1)
        monkeypatch.setattr(processes, "size", lambda: 2)
        monkeypatch.setattr(processes, "wait", self.wait)
        monkeypatch.setattr(processes, "give", self.give)

    def wait(self) -> None:
        assert self.folder is not None
        self.marks.append(sorted(path.name for path in self.folder.path.glob("mark-*")))

    def give(self, value: Any, owner: int = 0) -> Any:
        return None if self.finished is None else [self.finished, Records().model_dump(mode="json")]


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Others:
    return Others(monkeypatch)


def state(folder: ProcessFolder, finished: int) -> WalkState:
    streams = []
    for name in ("original", "followed", "given"):
        cache = TensorCache(torch.float32, folder.scratch.path(f"{name}-{finished:05d}"))
        cache.append(torch.full((2, 3), float(finished)))
        streams.append(cache)
    return WalkState(finished, streams[0], None, FollowedTokens(streams[1]), {"given-0": streams[2]})


@pytest.fixture
def folder(others: Others, tmp_path: Path) -> ProcessFolder:
    found = others.folder = ProcessFolder(tmp_path / "out.unfinished")
    found.begin(clear=True)
    return found


def test_an_older_mark_goes_when_the_first_process_has_written_the_newer(others: Others, folder: ProcessFolder) -> None:
    folder.finish(state(folder, 1))
    folder.finish(state(folder, 2))
    one, two = "mark-00001.json", "mark-00002.json"
    assert others.marks == [[one], [one], [one, two], [one, two]]
    assert [path.name for path in folder.path.glob("mark-*")] == [two]
    assert {path.name for path in folder.streams.iterdir()} == {
        f"{name}-00002.spool" for name in ("original", "followed", "given")
    }


@pytest.mark.parametrize("in_memory", [True, False])
def test_it_finds_what_was_there(in_memory: bool, others: Others, folder: ProcessFolder) -> None:
    assert folder.resume() is None
    folder.finish(state(folder, 2))
    others.finished = 2
    folder.begin(clear=False)
    folder.scratch.in_memory = in_memory
    found = folder.resume()
    assert found is not None
    assert found.finished == 2
    assert found.compressed is None
    assert found.original is not None
    assert found.followed is not None
    for cache in (found.original, found.followed.cache, found.taps["given-0"]):
        assert torch.equal(cache[0], torch.full((2, 3), 2.0))


@pytest.mark.parametrize("damage", ["gone", "changed", "no mark", "another block"])
def test_what_is_damaged_is_refused(damage: str, others: Others, folder: ProcessFolder) -> None:
    folder.finish(state(folder, 2))
    others.finished = 3 if damage == "another block" else 2
    path = folder.streams / "original-00002.spool"
    if damage == "gone":
        path.unlink()
    elif damage == "changed":
        path.write_bytes(b"\1" * path.stat().st_size)
    elif damage == "no mark":
        (folder.path / "mark-00002.json").write_text("{}")
    with pytest.raises(DamagedRunError, match="Start again with --overwrite"):
        folder.resume()


def test_it_leaves_nothing_behind(folder: ProcessFolder, tmp_path: Path) -> None:
    folder.finish(state(folder, 1))
    folder.close()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_begins_anew_finds_nothing(folder: ProcessFolder) -> None:
    folder.finish(state(folder, 1))
    folder.begin(clear=True)
    assert sorted(path.name for path in folder.path.iterdir()) == ["profile", "streams", "student"]
    assert list(folder.streams.iterdir()) == []
