"""``eckart run``: any program, with the format registered."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.helpers import COMMAND, posix, run, words

from eckart.cli.run import STARTUP, find_command, with_startup
from eckart.errors import EckartError

# Loads the model here and in a process of its own, says what it was called with, and ends as it is told.
PROGRAM = """
import os, signal, subprocess, sys
LOAD = '''
import sys
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
print(type(model.model.layers[0].mlp.up_proj).__name__, flush=True)
'''
print(sys.argv[2:], flush=True)
if sys.argv[1] != "signal":
    subprocess.run([sys.executable, "-c", LOAD, sys.argv[1]], check=True)
    sys.exit(7)
os.kill(os.getpid(), signal.SIGTERM)
"""


@posix
def test_arguments_exit_codes_and_child_processes(compressed: Path, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    arguments = ["-x", "a b", "--", "--help"]
    done = subprocess.run(
        [*COMMAND, "run", "--", "python", script, compressed, *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout.splitlines() == [str(arguments), "QuantizedLinear"]


@posix
def test_signals(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    done = subprocess.run([*COMMAND, "run", script, "signal"], capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGTERM


def test_what_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("script.py").write_text("")
    assert find_command(["-m", "json.tool", "--help"]) == [sys.executable, "-m", "json.tool", "--help"]
    assert find_command(["script.py", "-a"]) == [sys.executable, "script.py", "-a"]
    assert Path(find_command([Path(sys.executable).name, "-"])[0]).parent == Path(sys.executable).parent
    with pytest.raises(EckartError, match=r"no command 'other\.py'"):
        find_command(["other.py"])


def test_what_is_not_there() -> None:
    result = run("run", "--", "no-such-command-anywhere")
    assert result.exit_code == 2
    assert "There is no command 'no-such-command-anywhere'" in words(result.output)


def test_the_path_of_others_is_kept() -> None:
    assert with_startup({"A": "b"}) == {"A": "b", "PYTHONPATH": str(STARTUP)}
    assert with_startup({"PYTHONPATH": "x"})["PYTHONPATH"] == f"{STARTUP}{os.pathsep}x"
    assert (STARTUP / "sitecustomize.py").is_file()
