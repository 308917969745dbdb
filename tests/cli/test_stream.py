"""What a command says, and to whom: streams that are closed, full, or read by nobody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.helpers import COMMAND, posix, words

from eckart.cli.stream import StandardStream, StreamError


def shell(line: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command with redirections."""
    words = [*COMMAND, *map(str, arguments)]
    return subprocess.run(["bash", "-c", f'"$@" {line}', "bash", *words], capture_output=True, text=True, timeout=300)


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("> /dev/full", 2, "Error: Standard output cannot be written: No space left on device"),
        (">&- 2> /dev/full <&-", 0, ""),
    ],
)
def test_a_result_is_not_lost_because_nobody_can_be_told(
    line: str, code: int, said: str, model_folder: Path, tmp_path: Path
) -> None:
    done = shell(line, "compress", model_folder, "-o", tmp_path / "out", "--recipe", "svd", "--keep", "0.6")
    assert (tmp_path / "out" / "config.json").is_file()
    assert not (tmp_path / "out.unfinished").exists()
    assert done.returncode == code
    assert said in words(done.stderr)
    for text in ("Traceback", "Exception ignored"):
        assert text not in done.stderr


@posix
def test_a_reader_who_has_seen_enough_is_no_error() -> None:
    done = shell("| true; echo ${PIPESTATUS[0]}", "recipes")
    assert done.stdout.split() in (["141"], ["0"])  # 0 if all was written before the reader went
    assert done.stderr == ""


class Broken:
    closed = False

    def __init__(self, error: OSError) -> None:
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    def isatty(self) -> bool:
        return False


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), BrokenPipeError(32, "Broken pipe")])
def test_only_what_is_needed_fails(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(error))
    monkeypatch.setattr(sys, "stderr", Broken(error))
    assert StandardStream("stderr", needed=False).write("x") == 1
    with pytest.raises(StreamError) as caught:
        StandardStream("stdout", needed=True).write("x")
    assert caught.value.broken_pipe == isinstance(error, BrokenPipeError)
    monkeypatch.setattr(sys, "stdout", None)
    assert StandardStream("stdout", needed=True).write("x") == 1
    assert not StandardStream("stdout", needed=True).isatty()
