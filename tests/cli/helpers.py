"""Runs commands as a user would, in this process."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from eckart.cli.main import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def words(text: str) -> str:
    return " ".join(text.split())
