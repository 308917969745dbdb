"""Runs commands as a user would, in this process."""

from __future__ import annotations

import os
import sys

import pytest
from rich.table import Table
from typer.testing import CliRunner, Result

from eckart.cli.main import app

COMMAND = [sys.executable, "-c", "from eckart.cli.main import main; main()"]  # in a process of its own
posix = pytest.mark.skipif(os.name != "posix", reason="of POSIX")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def words(text: str) -> str:
    return " ".join(text.split())


def rows_of(table: Table) -> list[list[str]]:
    """Return the cells of a table, row by row."""
    return [list(row) for row in zip(*(map(str, column.cells) for column in table.columns), strict=True)]
