"""Where other packages are installed, and how they are run there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eckart.errors import EckartError

WORKERS = Path(__file__).parent / "workers"
TAIL = 2000  # characters of what a failed program wrote
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


class MissingPackageError(EckartError):
    """A package, or a program of it, that is not where the tools are."""


class RivalError(EckartError):
    """A package that ended with an error, or wrote what was not expected."""


@dataclass(frozen=True)
class Environment:
    """One virtual environment below the folder of tools.

    Attributes:
        tools: folder of all environments.
        name: of this one, which is the name of its folder.
    """

    tools: Path
    name: str

    @property
    def folder(self) -> Path:
        return self.tools / self.name

    def file(self, pattern: str, what: str) -> Path:
        """Return the first file of the environment that matches a glob pattern; ``what`` it is goes into the error."""
        found = sorted(self.folder.glob(pattern))
        if not found:
            raise MissingPackageError(f"There is no {what} in {self.folder}: {self._advice()}")
        return found[0]

    def version(self, package: str) -> str:
        """Return the version of an installed package.

        Raises:
            MissingPackageError: there is no such environment, or no such package in it.
        """
        python = self.file("bin/python", "Python")
        line = f"from importlib.metadata import version; print(version({package!r}))"
        found = subprocess.run([python, "-c", line], capture_output=True, text=True)
        if found.returncode:
            raise MissingPackageError(f"{package} is not installed in {self.folder}: {self._advice()}")
        return found.stdout.strip()

    def run(self, arguments: Sequence[str | Path]) -> str:
        """Run the environment's Python with these arguments, and return what it wrote.

        Raises:
            RivalError: it ended with an error.
        """
        return run([self.file("bin/python", "Python"), *arguments])

    def work(self, worker: str, *arguments: str | Path) -> None:
        """Run one of :mod:`rival_packages.workers`."""
        self.run([WORKERS / f"{worker}.py", *arguments])

    def _advice(self) -> str:
        return f"run `sh benchmarks/install_rivals.sh {self.tools} {self.name}`."


def run(line: Sequence[str | Path]) -> str:
    """Run a program, and return what it wrote to both of its outputs.

    Raises:
        RivalError: it ended with an error.
    """
    done = subprocess.run(
        list(line), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | OFFLINE
    )
    if done.returncode:
        raise RivalError(f"{Path(line[0]).name} ended with {done.returncode}: {done.stdout[-TAIL:].strip()}")
    return done.stdout
