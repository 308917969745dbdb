"""Runs commands as a user would, in this process."""

from __future__ import annotations

import functools
import os
import sys

import pytest
from rich.table import Table
from typer import testing
from typer.main import get_command
from typer.testing import Result

from eckart.cli.main import app

COMMAND = [sys.executable, "-c", "from eckart.cli.main import main; main()"]  # in a process of its own
posix = pytest.mark.skipif(os.name != "posix", reason="of POSIX")


# A test would spend most of its time on building the same command again. The name is typer's own.
testing._get_command = functools.cache(get_command)  # type: ignore[attr-defined]


def run(*arguments: object) -> Result:
    return testing.CliRunner().invoke(app, [str(argument) for argument in arguments])


def words(text: str) -> str:
    return " ".join(text.split())


def rows_of(table: Table) -> list[list[str]]:
    """Return the cells of a table, row by row."""
    return [list(row) for row in zip(*(map(str, column.cells) for column in table.columns), strict=True)]
