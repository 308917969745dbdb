"""``eckart run``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

import eckart.startup
from eckart.cli.console import command
from eckart.errors import EckartError

STARTUP = Path(next(iter(eckart.startup.__path__)))


@command
def run(
    words: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND...", help="A command, a script, or -m and a module.", show_default=False),
    ],
) -> None:
    """Start any Python program so that it loads compressed models, such as `eckart run -- lm_eval --model hf ...`."""
    found = find_command(words)
    environment = with_startup(os.environ)
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name != "posix":
        raise typer.Exit(subprocess.call(found, env=environment))
    for name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores them, and what takes its place would go on to
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    # It takes the place of this process: signals, exit code and terminal are its own.
    os.execve(found[0], found, environment)


def find_command(words: list[str]) -> list[str]:
    """Return what is started for the words of a command line: a program by its path, and its arguments as they are.

    Raises:
        EckartError: there is no such program.
    """
    first = words[0]
    if first.startswith("-") or (first.endswith(".py") and Path(first).is_file()):
        return [sys.executable, *words]
    # What is installed beside this command comes first, whether or not its environment was activated.
    beside = os.path.dirname(sys.executable)
    program = shutil.which(first, path=os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]))
    if program is None:
        raise EckartError(
            f"There is no command {first!r}. Expected a program that can be found on the PATH, a script that ends in "
            ".py, or -m and a module."
        )
    return [program, *words[1:]]


def with_startup(environment: os._Environ[str] | dict[str, str]) -> dict[str, str]:
    """Return an environment in which every Python process knows the format, those that it starts too."""
    others = environment.get("PYTHONPATH")
    return {**environment, "PYTHONPATH": os.pathsep.join([str(STARTUP), *([others] if others else [])])}
