"""Commands are imported when they are run, and help says what they say."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
from tests.cli.helpers import run, words

from eckart.cli.main import COMMANDS
from eckart.cli.on_demand import Place


@pytest.mark.parametrize("name", COMMANDS)
def test_what_help_says_is_the_functions_own(name: str) -> None:
    place = COMMANDS[name]
    assert place.summary() == str(inspect.getdoc(place.load())).splitlines()[0]


def test_a_function_that_is_nowhere_has_no_summary() -> None:
    assert Place("compress", "decompress").summary() is None


def test_a_command_takes_its_own_options() -> None:
    assert "--cache" not in words(run("--help").stdout)
    assert "--keep" in words(run("compress", "--help").stdout)
    assert run("compress").exit_code == 2
    done = run("run", "--help")
    assert "eckart run" in words(done.stdout)


def test_help_waits_for_nothing() -> None:
    code = "import sys\nfrom eckart.cli.main import app\ntry:\n    app(['--help'])\nfinally:\n"
    code += "    assert not {'torch', 'transformers', 'numpy', 'pandas'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(f" {name} " in done.stdout for name in COMMANDS)
