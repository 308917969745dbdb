"""The folder that is worked in: whose it is, what a kill leaves there, and the change of names."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest

from eckart.checkpoint.output import replaced_of, unfinished_of
from eckart.checkpoint.run_folder import RunFolder
from eckart.checkpoint.save import new_folder
from eckart.errors import CheckpointError, EckartWarning


def write(out: Path, text: str, overwrite: bool = True) -> None:
    with new_folder(out, overwrite=overwrite) as partial:
        (partial / "config.json").write_text(text)


def text(out: Path) -> str:
    return (out / "config.json").read_text()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output that is there already."""
    write(tmp_path / "out", "old", overwrite=False)
    return tmp_path / "out"


@pytest.mark.parametrize("kind", ["file inside", "link inside", "link", "dangling link", "file", "hostile mark"])
def test_a_folder_of_somebody_else_is_neither_entered_nor_emptied(kind: str, out: Path) -> None:
    mine, path = out.with_name("mine"), unfinished_of(out)
    mine.mkdir()
    (mine / "thesis").write_text("x")
    if kind == "file inside":
        mine.rename(path)
    elif kind == "link inside":
        path.mkdir()
        (path / "eckart.json").write_text("{}")
        (path / "streams").symlink_to(mine)
    elif kind == "hostile mark":
        mine.rename(path)
        (path / "eckart.json").write_text("{}")
    elif kind == "file":
        path.write_text("x")
    else:
        path.symlink_to(mine if kind == "link" else "nowhere")
    before = sorted(str(p) for p in out.parent.rglob("*"))
    folder = RunFolder(out)
    for action in (folder.mark, folder.recover, folder.open, lambda: write(out, "new")):
        with pytest.raises(CheckpointError, match="Move it away, or use another output"):
            action()
    assert sorted(str(p) for p in out.parent.rglob("*")) == before


def test_an_empty_folder_is_used_and_left_as_it_was_if_nothing_comes_of_it(out: Path) -> None:
    unfinished_of(out).mkdir()
    folder = RunFolder(out)
    folder.open()
    folder.close()
    assert list(unfinished_of(out).iterdir()) == []
    write(out, "new")
    assert text(out) == "new"
    assert not unfinished_of(out).exists()


def test_folders_that_were_made_on_the_way_go_with_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "b" / "out")
    folder.open()
    folder.close()
    assert list(tmp_path.iterdir()) == []


def killed(out: Path, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace an output and die, without any cleaning up, before the step that is named."""
    plain, arguments = os.rename, []

    def rename(source: Path, target: Path) -> None:
        arguments.append(source)
        if len(arguments) == {"first": 1, "second": 2}.get(at):
            raise KeyboardInterrupt
        plain(source, target)

    folder = RunFolder(out)
    folder.open(overwrite=True)
    folder.begin(clear=True, overwrite=True)
    (folder.model / "config.json").write_text("new")
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        if at == "deletion":
            patch.setattr("eckart.checkpoint.run_folder.delete_known", lambda path: arguments[9])
        with pytest.raises((KeyboardInterrupt, IndexError)):
            folder.publish()
    folder._lock.release()


@pytest.mark.parametrize("at", ["first", "second", "deletion"])
def test_after_a_kill_the_next_command_finds_what_was_there(
    at: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(out, at, monkeypatch)
    assert out.exists() == (at != "second")
    with pytest.raises(CheckpointError, match="exists"):
        write(out, "newest", overwrite=False)
    assert text(out) == ("new" if at == "deletion" else "old")
    assert not replaced_of(out).exists()
    write(out, "newest")
    assert text(out) == "newest"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "name", ["model.onnx", "model.onnx.data", "tmp8a/decode.xml", "model.pte", "export.json", "processor_config.json"]
)
def test_after_a_kill_in_an_export_the_next_one_begins_anew(name: str, tmp_path: Path) -> None:
    killed = RunFolder(tmp_path / "out")
    killed.open()
    killed.begin(clear=True, overwrite=False)
    (killed.model / name).parent.mkdir(exist_ok=True)
    (killed.model / name).write_text("half")
    killed._lock.release()
    write(tmp_path / "out", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / name).exists()


def test_what_is_put_beside_after_a_kill_does_not_cost_the_older_folder(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(out, "second", monkeypatch)
    out.mkdir()
    (out / "other").write_text("x")
    with pytest.raises(CheckpointError):
        write(out, "newest")
    assert text(replaced_of(out)) == "old"
    assert (out / "other").exists()


def test_a_file_that_comes_in_meanwhile_is_kept(out: Path) -> None:
    def replace() -> None:
        with new_folder(out, overwrite=True) as partial:
            (partial / "config.json").write_text("new")
            (out / "thesis").write_text("mine")

    with pytest.raises(CheckpointError, match="holds 'thesis'"):
        replace()
    assert text(out) == "old"
    assert (out / "thesis").read_text() == "mine"


def test_a_second_rename_that_fails_puts_the_older_folder_back(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = os.rename

    def rename(source: Path, target: Path) -> None:
        if Path(source).name == "model":
            raise OSError(5, "Input/output error")
        plain(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(CheckpointError, match="could not be written"):
        write(out, "new")
    assert text(out) == "old"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_an_older_folder_that_cannot_be_deleted_is_said(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("eckart.checkpoint.run_folder.delete_known", fail)
        with pytest.warns(EckartWarning, match=r"is still in .*\.out\.replaced: Permission denied"):
            write(out, "new")
    assert text(out) == "new"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at open files")
def test_the_rules_of_windows(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No rename onto a file or of what is open, no fsync of a handle that only reads, no deletion of an open file."""
    import fcntl

    plain_rename, plain_replace, plain_sync, plain_unlink = os.rename, os.replace, os.fsync, os.unlink

    def check_closed(path: object) -> None:
        real = os.path.realpath(str(path))
        for number in os.listdir("/proc/self/fd"):
            link = f"/proc/self/fd/{number}"
            target = os.readlink(link) if os.path.lexists(link) else ""
            if target == real or target.startswith(f"{real}/"):
                raise PermissionError(13, "[WinError 32] used by another process", str(path))

    def rename(source: str | Path, target: str | Path) -> None:
        check_closed(source)
        if os.path.lexists(str(target)):
            raise FileExistsError(17, "[WinError 183] Cannot create a file when that file already exists", str(target))
        plain_rename(source, target)

    def replace(source: str | Path, target: str | Path) -> None:
        check_closed(source)
        check_closed(target)
        if os.path.isdir(str(target)):
            raise PermissionError(13, "[WinError 5] Access is denied", str(target))
        plain_replace(source, target)

    def fsync(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        plain_sync(descriptor)

    def unlink(path: str | Path, **options: int) -> None:
        if not options:
            check_closed(path)
        plain_unlink(path, **options)

    monkeypatch.setattr("eckart.checkpoint.files.FOLDERS_ARE_SYNCED", False)
    for name, rule in (("rename", rename), ("replace", replace), ("fsync", fsync), ("unlink", unlink)):
        monkeypatch.setattr(os, name, rule)
    for number in range(2):
        write(out, f"new {number}")
        assert text(out) == f"new {number}"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "name", ["model/mine.txt", "model/sub/thesis", "streams/mine.txt", "spectra/notes", "lock", "eckart.partial"]
)
def test_a_file_of_the_user_in_a_folder_of_work_is_refused(tmp_path: Path, name: str) -> None:
    folder = RunFolder(tmp_path / "out")
    folder.open()
    folder.begin(clear=True, overwrite=True)
    folder.manifest.write_text('{"identity": {}, "finished": 0}')
    folder.close()
    mine = folder.path / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(CheckpointError, match="which Eckart did not write"):
        RunFolder(tmp_path / "out").open(overwrite=True)
    assert mine.read_text() == "mine"


@pytest.mark.skipif(os.name != "posix", reason="has no pipes")
@pytest.mark.parametrize("name", ["manifest.partial", "eckart.partial", "model/config.json", "streams/a.spool"])
def test_pipes_and_second_names_in_a_folder_of_work_are_refused(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for make in (os.mkfifo, functools.partial(os.link, victim)):
        folder = RunFolder(tmp_path / f"out{make is os.mkfifo}")
        folder.open()
        folder.begin(clear=True, overwrite=False)
        folder.manifest.write_text('{"identity": {}, "finished": 0}')
        folder.close()
        make(folder.path / name)
        with pytest.raises(CheckpointError, match="which Eckart did not write"):
            RunFolder(folder.output).open()
    assert victim.read_text() == "mine"


def test_an_output_that_came_to_be_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    folder.open()
    folder.begin(clear=True, overwrite=False)
    (folder.model / "config.json").write_text("{}")
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="has come to be since the start"):
        folder.publish()
    folder.close()
    assert list((tmp_path / "out").iterdir()) == []
