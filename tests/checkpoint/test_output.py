"""What an output may replace, by every way there is to write one."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from tests.conftest import contents, make_model

import eckart
from eckart.checkpoint.mark import LIST_NAME, delete_known, known_files
from eckart.checkpoint.output import IMAGE, PAGE, SWEEP, check_apart, check_output, placed
from eckart.checkpoint.save import new_folder
from eckart.errors import CheckpointError
from eckart.sweep.store import Store


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder that Eckart wrote."""
    out = tmp_path / "out"
    with new_folder(out, overwrite=False) as partial:
        (partial / "eckart").mkdir()
        for name in ("config.json", "eckart/report.json"):
            (partial / name).write_text("{}")
    return out


def everything(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): os.readlink(path) if path.is_symlink() else path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def test_what_eckart_wrote_is_replaced(made: Path) -> None:
    check_output(made, overwrite=True)
    with new_folder(made, overwrite=True) as partial:
        (partial / "new").write_text("x")
    assert everything(made).keys() == {"new", LIST_NAME}
    assert [path.name for path in made.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("inside", ["thesis.tex", "eckart/notes", "chapters/one.tex", ".hidden", "link"])
def test_a_file_that_eckart_did_not_write_is_named_and_kept(inside: str, made: Path) -> None:
    (made / inside).parent.mkdir(exist_ok=True)
    if inside == "link":
        (made / inside).symlink_to(made.parent)
    else:
        (made / inside).write_text("mine")
    before = everything(made.parent)
    with pytest.raises(CheckpointError, match=rf"holds '{inside}', which Eckart did not write"):
        check_output(made, overwrite=True)
    with pytest.raises(CheckpointError, match="did not write"), new_folder(made, overwrite=True):
        raise AssertionError("not reached")
    assert everything(made.parent) == before


@pytest.mark.parametrize("files", [{"ch1": "x"}, {"config.json": "{}"}, {LIST_NAME: "no list"}, {LIST_NAME: "{}"}])
def test_a_folder_without_a_mark_is_kept(files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / "u" / name).parent.mkdir(parents=True)
        (tmp_path / "u" / name).write_text(text)
    with pytest.raises(CheckpointError, match="did not write"):
        check_output(tmp_path / "u", overwrite=True)


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out", overwrite=True) as partial:
        (partial / "new").write_text("x")
    assert (tmp_path / "out" / "new").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_before_there_were_marks_is_known_by_its_config(tmp_path: Path, tokens: torch.Tensor) -> None:
    model = make_model("llama")
    report = eckart.compress(model, "svd-llm", 0.6, tokens)
    eckart.save(model, report, tmp_path / "out")
    (tmp_path / "out" / LIST_NAME).unlink()
    (tmp_path / "out" / "thesis").write_text("mine")
    with pytest.raises(CheckpointError, match="holds 'thesis'"):
        eckart.save(model, report, tmp_path / "out", overwrite=True)
    (tmp_path / "out" / "thesis").unlink()
    eckart.save(model, report, tmp_path / "out", overwrite=True)
    assert known_files(tmp_path / "out") == {*contents(tmp_path / "out"), "eckart/timings.json"}


def test_only_what_the_mark_lists_is_deleted(made: Path) -> None:
    names = ["config.json", "../victim", "/etc/passwd", "nowhere"]
    (made / LIST_NAME).write_text(json.dumps({"files": dict.fromkeys(names, "0" * 64)}))
    (made.parent / "victim").write_text("mine")
    delete_known(made)
    assert everything(made.parent).keys() == {"victim", "out/eckart/report.json", f"out/{LIST_NAME}"}


@pytest.mark.parametrize(
    ("output", "reads"),
    [
        ("m", "m"),
        ("m/small", "m"),
        ("m/a/../b", "m"),
        (".", "m"),
        ("link", "m"),
        ("link/small", "m"),
        ("other/../m/small", "m"),
        ("w", "w/text.txt"),
        ("w", "w/text.txt:raw"),
        ("w", "python-docs + w/text.txt:lines"),
        ("w", "dataset:w/data:train"),
        ("w/data/out", "dataset:w/data:train"),
        ("w", "w/mine.yaml"),
        ("w", "w/deep/model.gguf"),
        ("blobs", "cached"),
        ("o", "o.unfinished/converted-1"),
    ],
)
def test_nothing_that_is_read_is_touched(
    output: str, reads: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("m/config.json", "w/text.txt", "w/mine.yaml", "w/deep/model.gguf", "w/data/x", "blobs/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "o.unfinished" / "converted-1").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "cached").mkdir()
    (tmp_path / "cached" / "model").symlink_to("../blobs/x")  # as the cache of a hub
    (tmp_path / "link").symlink_to("m")
    monkeypatch.chdir(tmp_path)
    read = Path(reads) if Path(reads).exists() else reads
    with pytest.raises(CheckpointError, match=r"which is read|no name of its own"):
        check_apart(output, [None, read])
    check_apart("elsewhere", [None, read])


def test_a_folder_called_as_a_recipe_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "svd-llm").mkdir()
    check_apart("svd-llm", ["svd-llm", "self"])


@pytest.mark.parametrize("name", [".", "", "/", "..", "a/..", "n" * 245, "ä" * 123])
def test_names_that_cannot_be(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no name of its own|more than 244 bytes"):
        check_output(name, overwrite=True)


def test_the_longest_name_that_can_be(tmp_path: Path) -> None:
    for _ in range(2):
        with new_folder(tmp_path / ("n" * 244), overwrite=True) as partial:
            (partial / "x").write_text("x")
    assert (tmp_path / ("n" * 244) / "x").exists()


@pytest.mark.parametrize("target", ["nowhere", "made"])
def test_links_are_not_replaced(target: str, tmp_path: Path) -> None:
    with new_folder(tmp_path / "made", overwrite=False):
        pass
    (tmp_path / "out").symlink_to(target)
    for kind in (None, PAGE):
        with pytest.raises(CheckpointError, match=f"is a link to {target}"):
            check_output(tmp_path / "out", overwrite=True, kind=kind)


def test_what_cannot_be_replaced_is_said_before_the_work(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        plain = os.access
        patch.setattr(os, "access", lambda path, mode: Path(path) != made / "eckart" and plain(path, mode))
        with pytest.raises(CheckpointError, match="belongs to another user, is read-only"):
            check_output(made, overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: Path(path) != made.parent)
        with pytest.raises(CheckpointError, match="is not writable"):
            check_output(made, overwrite=True)
    with monkeypatch.context() as patch:  # as in /tmp, for somebody who owns nothing of it
        made.parent.chmod(0o777 | stat.S_ISVTX)
        patch.setattr(os, "geteuid", lambda: 12345)
        with pytest.raises(CheckpointError, match="belongs to another user"):
            check_output(made, overwrite=True)


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is no folder"):
        check_output(tmp_path / "file" / "out", overwrite=True)


PNG_HEAD = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(17) + b"\0\0\0\x0f"
FILES = [
    (
        PAGE,
        b'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="generator" content="Eckart">',
        b'<!doctype html>\n<html lang="en">\n<head>\n<title>On <meta name="generator" content="Eckart"></title>',
    ),
    (PAGE, b"...<footer><p>Made by <code>eckart report</code>.", b"my notes on eckart report"),
    (IMAGE, PNG_HEAD + b"tEXtSoftware\0Eckart", PNG_HEAD + b"tEXtSoftware\0Matplotlib"),
    (IMAGE, b"<svg><dc:title>Eckart</dc:title>", b"<svg><dc:title>Matplotlib</dc:title>"),
]


@pytest.mark.parametrize(("kind", "ours", "theirs"), FILES)
def test_single_files_are_known_by_their_mark(kind, ours: bytes, theirs: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (ours, b""):
        path.write_bytes(content)
        check_output(path, overwrite=True, kind=kind)
    path.write_bytes(theirs)
    with pytest.raises(CheckpointError, match="Only what Eckart wrote is replaced"):
        check_output(path, overwrite=True, kind=kind)
    with pytest.raises(CheckpointError, match="there is no folder"):
        check_output(tmp_path / "no" / "file", overwrite=True, kind=kind)


def test_a_sweep_is_known_by_its_mark(tmp_path: Path) -> None:
    Store(tmp_path / "a.sqlite", {"x": 1})
    check_output(tmp_path / "a.sqlite", overwrite=True, kind=SWEEP)
    import sqlite3

    sqlite3.connect(tmp_path / "b.sqlite").execute("CREATE TABLE mine (x)")
    before = (tmp_path / "b.sqlite").read_bytes()
    with pytest.raises(CheckpointError, match="is no file of a sweep"):
        Store(tmp_path / "b.sqlite", {"x": 1})
    assert (tmp_path / "b.sqlite").read_bytes() == before


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="a device")
def test_a_device_is_no_file() -> None:
    with pytest.raises(CheckpointError, match="no ordinary file"):
        check_output("/dev/null", overwrite=True, kind=PAGE)


def test_disks_of_their_own_are_not_moved(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == made)
    with pytest.raises(CheckpointError, match="a disk of its own"):
        check_output(made, overwrite=True)


def test_what_was_changed_since_is_not_replaced(made: Path) -> None:
    (made / "config.json").write_text('{"of": "the user"}')
    with pytest.raises(CheckpointError, match=r"config.json was changed since Eckart wrote it"):
        check_output(made, overwrite=True)


def test_a_folder_that_is_not_there_hides_nothing_behind_it(made: Path) -> None:
    hidden = made.parent / "new" / ".." / made.name
    with pytest.raises(CheckpointError, match="exists"):
        check_output(hidden, overwrite=False)
    assert placed(hidden) == placed(made)
    assert placed("a/b") == Path("a/b")


def test_a_hub_model_in_the_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    cached = {"x/y": str(snapshot / "config.json")}
    monkeypatch.setattr("eckart.checkpoint.output.try_to_load_from_cache", lambda name, file: cached.get(name))
    with pytest.raises(CheckpointError, match="which is read"):
        check_apart(snapshot, [Path("x/y")])
    check_apart(snapshot, [Path("x/z"), Path("no model/at all/really")])
