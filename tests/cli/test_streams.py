"""What a command says, and to whom: streams that are closed or full, signals, names that look like markup."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cli.helpers import run, words

from eckart.cli.stream import DriftError, HiddenStates

COMMAND = [sys.executable, "-c", "from eckart.cli.main import main; main()"]
posix = pytest.mark.skipif(os.name != "posix", reason="of POSIX")


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
        ("2> /dev/full", 0, ""),
        (">&- 2>&- <&-", 0, ""),
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
    assert HiddenStates("stderr", needed=False).write("x") == 1
    with pytest.raises(DriftError) as caught:
        HiddenStates("stdout", needed=True).write("x")
    assert caught.value.broken_pipe == isinstance(error, BrokenPipeError)
    monkeypatch.setattr(sys, "stdout", None)
    assert HiddenStates("stdout", needed=True).write("x") == 1
    assert not HiddenStates("stdout", needed=True).isatty()


@posix
def test_whoever_is_terminated_says_what_is_kept(model_folder: Path, tmp_path: Path) -> None:
    arguments = ["compress", model_folder, "-o", tmp_path / "out", "--recipe", "aa-svd", "--samples", 64]
    arguments += ["--length", 100, "--set", "refinement.epochs=40"]
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            deadline = time.monotonic() + 200
            while not (tmp_path / "out.unfinished" / "manifest.json").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=100)
        finally:
            process.kill()
    assert process.returncode == 143, errors  # as Ctrl-C, but for this number
    assert "finished blocks are kept in" in words(errors)
    assert "go on with --resume." in words(errors)
    assert "Traceback" not in errors


@pytest.mark.parametrize("name", ["[bold]x[-nope]", "[red]", ":smile:", "a [b] c"])
def test_names_are_printed_as_they_are(
    name: str, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("compress", model_folder, "-o", name, "--recipe", "svd", "--keep", "0.6")
    assert done.exit_code == 0, done.output
    assert f"Wrote {name}:" in words(done.stdout)
    again = run("compress", model_folder, "-o", name, "--recipe", "svd", "--keep", "0.6", "--resume")
    assert words(again.stdout) == f"{name} is finished already."
    merged = run("merge", name, "-o", f"{name} dense")
    assert words(merged.stdout) == f"Wrote the dense model {name} dense."
    refused = run("compress", model_folder, "-o", name, "--recipe", "svd")
    assert f"The output folder {name} exists" in words(refused.stderr)


def test_closing_markup_in_the_way_to_an_output(model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "[bold]x[" / "nope]"
    done = run("compress", model_folder, "-o", out, "--recipe", "svd", "--keep", "0.6")
    assert done.exit_code == 0, done.output
    assert "[bold]x[/nope]: " in words(done.stdout)


@pytest.mark.parametrize("name", [".", "", "/", "..", "n" * 245, "link", "u"])
@pytest.mark.parametrize("command", ["compress", "merge"])
def test_outputs_that_cannot_be_are_refused_before_the_work(
    command: str, name: str, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "u" / "thesis").mkdir(parents=True)
    (tmp_path / "here" / "u" / "thesis" / "ch1").write_text("x")
    (tmp_path / "here" / "link").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("eckart.run.compress_checkpoint.open_model", None)
    monkeypatch.setattr("eckart.cli.merge.load_model", None)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    done = run(command, model_folder, "-o", name, "--overwrite")
    assert done.exit_code == 2, done.output
    assert "Error: " in done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
