"""Standard streams that are closed, full, or read by nobody; in this process, with the streams put in their place."""

from __future__ import annotations

import io
import os
import sys

import pytest
from tests.cli.helpers import words

from eckart.cli.main import main
from eckart.cli.process import standard_streams

needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no such device")


def run(*arguments: str) -> int:
    """Run the command with the streams as they are, and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["eckart", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
    code = stopped.value.code
    return code if isinstance(code, int) else int(code is not None)


@needs_full
@pytest.mark.parametrize("arguments", [["recipes"], ["recipes", "svd"], ["--help"], ["compress", "--help"]])
def test_a_full_disk(arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run(*arguments) == 2
        full.flush()  # as the interpreter does at its end
    assert "Error: Standard output cannot be written: No space left on device" in words(capsys.readouterr().err)


@pytest.mark.skipif(os.name != "posix", reason="pipes of other systems break in other ways")
@pytest.mark.parametrize(("arguments", "code"), [(["recipes"], 141), (["recipes", "svd"], 141), (["--help"], 1)])
def test_nobody_reads(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert run(*arguments) == code
        monkeypatch.undo()
        if code == 1:  # typer leaves the pipe as it is
            os.dup2(os.open(os.devnull, os.O_WRONLY), pipe.fileno())
    assert capsys.readouterr().err == ""


def test_closed_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert run("recipes") == 0
    assert run("recipes", "svdd") == 2
    for name in ("stdin", "stdout", "stderr"):
        getattr(sys, name).close()


@needs_full
def test_nobody_can_be_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert run("recipes", "svdd") == 2
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


def test_characters_that_the_encoding_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    assert run("recipes", "模\udcff") == 2
    stream.flush()
    assert b"No recipe is called '\\u6a21\\udcff'" in stream.buffer.getvalue()


def test_other_errors_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError), standard_streams():
        raise ZeroDivisionError
