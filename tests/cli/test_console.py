"""What all commands share: a message and an exit code for each mistake, signals, names that look like markup."""

from __future__ import annotations

import signal
import subprocess
import time
import warnings
from pathlib import Path

import pytest
import typer
from tests.cli.helpers import COMMAND, posix, run, words

from eckart.cli.console import command, duration, megabytes
from eckart.errors import EckartError, EckartWarning

MISTAKES = [
    (["compress", "nowhere/such-model", "-o", "{out}"], "no hub model"),
    (["compress", "{tmp}", "-o", "{out}"], "no config.json"),
    (["compress", "{tmp}/x.gguf", "-o", "{out}"], "There is no file"),
    (["compress", "{model}", "-o", "{out}", "--keep", "0"], "above 0 and at most 1; found 0"),
    (["compress", "{model}", "-o", "{out}", "--keep", "1.5"], "above 0 and at most 1; found 1.5"),
    (["compress", "{model}", "-o", "{out}", "--keep", "half"], "number"),
    (["compress", "{model}", "-o", "{out}", "--recipe", "svdllm"], "did you mean 'svd-llm'"),
    (["compress", "{model}", "-o", "{out}", "--set", "objectiv=anchored"], "did you mean 'objective'"),
    (["compress", "{model}", "-o", "{out}", "--device", "gpu"], "No device is called 'gpu'"),
    (["compress", "{model}", "-o", "{out}", "--calibration", "nowhere.txt"], "No text is called"),
    (["compress", "{model}", "-o", "{out}", "--calibration", "{tmp}/empty.txt"], "is empty"),
    (["compress", "{model}", "-o", "{out}", "--calibration", "{tmp}/short.txt", "--length", "64"], "too short"),
    (["compress", "{model}", "-o", "{out}", "--length", "1024"], "context of 128"),
    (["compress", "{model}", "-o", "{model}"], "which is read"),
    (["compress", "{model}", "-o", "{model}/small", "--overwrite"], "lies in"),
    (["compress", "{model}", "-o", "{tmp}/short.txt"], "exists"),
    (["compress", "{model}", "-o", "{out}", "--memory", "much"], "takes a size such as 8GB or 500MB, found 'much'"),
    (["compress", "{model}", "-o", "{out}", "--set", "refinement=blok"], "did you mean 'block'"),
    (
        ["compress", "{model}", "-o", "{out}", "--recipe", "saes-svd", "--set", "refinement.epochs=0"],
        "This recipe has no field 'refinement.epochs'",
    ),
    (["compress", "{model}", "-o", "{out}", "--recipe", "aa-svd", "--set", "refinement.epochs=0"], "greater than"),
    (["eval", "{model}", "--text", "nowhere.txt"], "No text is called"),
    (["eval", "{model}", "--text", "{tmp}/short.txt", "--length", "64"], "one window is 64"),
    (["eval", "nowhere/such-model", "--text", "{tmp}/short.txt"], "no hub model"),
    (["inspect", "{model}"], "expected a folder that `eckart compress` wrote"),
    (["merge", "{model}", "-o", "{out}"], "nothing to multiply back"),
    (["recipes", "svdllm"], "did you mean 'svd-llm'"),
    (["recipes", "svd", "--keep", "2"], "found 2"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda value: " ".join(value)[:60])
def test_mistakes_get_a_message_and_exit_code_2(
    arguments: list[str], message: str, model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("too short")
    result = run(*(a.format(out=tmp_path / "out", model=model_folder, tmp=tmp_path) for a in arguments))
    assert result.exit_code == 2, result.output
    assert message in words(result.stderr)
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


@posix
def test_ctrl_c_leaves_no_folder_and_no_traceback(model_folder: Path, tmp_path: Path) -> None:
    command = [*COMMAND, "compress", str(model_folder), "-o", str(tmp_path / "out"), "--recipe", "aa-svd-layer"]
    # A long run on a tiny model: many samples.
    command += ["--samples", "20000", "--length", "100"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores Ctrl-C, and so would what is started from there.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            deadline = time.monotonic() + 120
            while not (tmp_path / "out.unfinished").exists() and time.monotonic() < deadline:
                time.sleep(0.2)
            time.sleep(2)
            assert process.poll() is None, process.communicate()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    # It may have been stopped before the first block was begun, or in it.
    assert "Interrupted. " in errors
    assert "nothing was written." in errors.lower()
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


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


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (EckartError("Nothing [bold]here[/bold]."), 2, "Error: Nothing [bold]here[/bold]."),
        (OSError(13, "Permission denied", "a.txt"), 2, "Error: a.txt cannot be used: Permission denied."),
        (OSError("odd"), 2, "Error: A file cannot be used: odd."),
        (KeyboardInterrupt(), 130, "Interrupted. Nothing was written."),
        (KeyboardInterrupt("Half of it is kept."), 130, "Half of it is kept."),
    ],
)
def test_what_a_command_raises_is_a_message_and_a_code(
    raised: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @command
    def fails() -> None:
        raise raised

    with pytest.raises(typer.Exit) as stopped:
        fails()
    assert stopped.value.exit_code == code
    assert capsys.readouterr().err == f"{said}\n"


def test_other_errors_are_faults_and_pass() -> None:
    @command
    def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()


def test_only_our_warnings_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def warned() -> int:
        warnings.warn("of [ours]", EckartWarning, stacklevel=1)
        warnings.warn("of others", UserWarning, stacklevel=1)
        return 3

    assert warned() == 3
    assert capsys.readouterr().err == "Warning: of [ours]\n"


@posix
def test_sigterm_is_as_before_behind_a_command() -> None:
    inside: list[object] = []
    before = signal.getsignal(signal.SIGTERM)
    command(lambda: inside.append(signal.getsignal(signal.SIGTERM)))()
    assert signal.getsignal(signal.SIGTERM) is before
    assert inside != [before]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0.0 MB"), (1_540_000, "1.5 MB"), (999_940_000, "999.9 MB"), (10**9, "1.00 GB"), (12_345_000_000, "12.35 GB")],
)
def test_bytes_in_words(count: int, expected: str) -> None:
    assert megabytes(count) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.04, "0.0 s"), (59.4, "59.4 s"), (59.6, "1 min 0 s"), (61, "1 min 1 s"), (3600, "60 min 0 s")],
)
def test_seconds_in_words(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
