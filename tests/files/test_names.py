from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from eckart.errors import CheckpointError
from eckart.files.names import file_inside, read_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for path in (folder / "a.json", folder / "sub" / "b.json", tmp_path / "outside.json"):
        path.write_text("{}")
    return folder


def test_what_is_inside_is_opened(folder: Path) -> None:
    (folder / "link.json").symlink_to("sub/b.json")
    (folder.parent / "other").symlink_to(folder)
    for name in ("a.json", "sub/b.json", "./a.json", "sub/../a.json", "link.json"):
        assert read_json(folder, name) == {}
    assert file_inside(folder.parent / "other", "a.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["../outside.json", "sub/../../outside.json", "link.json", "{}/outside.json", "dir/b"])
def test_what_is_outside_is_not(name: str, folder: Path) -> None:
    (folder / "link.json").symlink_to(folder.parent / "outside.json")
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "elsewhere" / "b").write_text("")
    (folder / "dir").symlink_to(folder.parent / "elsewhere")
    with pytest.raises(CheckpointError, match="outside the folder"):
        file_inside(folder, name.format(folder.parent))


@pytest.mark.parametrize("name", ["", None, 3, ["a.json"], "a\0b"])
def test_what_is_no_name(name: object, folder: Path) -> None:
    with pytest.raises(CheckpointError, match="expected the name of a file"):
        file_inside(folder, name)


def test_what_is_no_regular_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "fifo.json")
    with pytest.raises(CheckpointError, match=r"fifo\.json is a pipe; expected a regular file"):
        read_json(folder, "fifo.json")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_json(folder, "sub")
    monkeypatch.chdir(folder)  # names of sockets must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.json")
        with pytest.raises(CheckpointError, match="is a socket"):
            read_json(folder, "s.json")
    (folder / "zero.json").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="outside the folder"):
        read_json(folder, "zero.json")
    with pytest.raises(CheckpointError, match="is a device"):
        file_inside("/dev", "zero")


def test_links_to_nothing_and_in_circles(folder: Path) -> None:
    (folder / "gone.json").symlink_to("nothing")
    (folder / "circle.json").symlink_to("circle.json")
    with pytest.raises(CheckpointError, match="a link to a file that is not there"):
        file_inside(folder, "gone.json")
    with pytest.raises(CheckpointError, match="cannot be opened"):
        file_inside(folder, "circle.json")
    with pytest.raises(CheckpointError, match="There is no file"):
        file_inside(folder, "nowhere.json")


def test_a_hubs_cache_has_its_files_among_blobs(tmp_path: Path) -> None:
    blobs = tmp_path / "hub" / "models--a--b" / "blobs"
    snapshot = blobs.parent / "snapshots" / "1"
    for path in (blobs, snapshot):
        path.mkdir(parents=True)
    (blobs / "0123").write_text("[1]")
    (snapshot / "config.json").symlink_to("../../blobs/0123")
    assert read_json(snapshot, "config.json") == [1]


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "9" * 10_000, b"\xff\xfe", '{"a": ["\\uD800"]}'])
def test_what_is_no_json(text: str | bytes, folder: Path) -> None:
    (folder / "a.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_json(folder, "a.json")


def test_what_is_too_large(folder: Path) -> None:
    with (folder / "a.json").open("wb") as file:
        file.truncate(2**40)  # takes no room
    with pytest.raises(CheckpointError, match="expected at most"):
        read_json(folder, "a.json")
