"""All commands together."""

from __future__ import annotations

import subprocess

import pytest
from tests.cli.helpers import COMMAND, run, words

COMMANDS = ("compress", "eval", "bench", "sweep", "inspect", "report", "merge", "resize", "recipes", "demo")


def test_every_command_is_there_and_says_what_it_does() -> None:
    page = words(run("--help").stdout)
    for name in COMMANDS:
        told = run(name, "--help")
        assert told.exit_code == 0, told.output
        assert f" {name} " in page
        assert f"eckart {name} " in words(told.stdout)


@pytest.mark.parametrize(("arguments", "message"), [(["shrink"], "No such command"), (["recipes", "--all"], "--all")])
def test_what_is_no_command_is_a_mistake(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in words(done.stderr)


def test_in_a_process_of_its_own() -> None:
    done = subprocess.run([*COMMAND, "recipes", "svdd"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: No recipe is called 'svdd'; did you mean 'svd'" in words(done.stderr)
