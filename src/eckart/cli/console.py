"""What all commands share: errors without tracebacks, warnings in colour, quiet libraries."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from io import TextIOWrapper
from typing import Annotated, ParamSpec, TextIO, TypeVar

import typer
from rich.console import Console
from transformers.utils import logging

from eckart.errors import EckartError, EckartWarning

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

PIPE_WIDTH = 160  # a file or a pipe has no width of its own; tables should not be cut to that of a terminal

output = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
messages = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else PIPE_WIDTH)

TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that comes with a model. Read it first.")
]

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def command(run: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Turn the errors of a command into a message on standard error and an exit code."""

    @functools.wraps(run)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # the name of a file may be no Unicode
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = _show_warning
            try:
                return run(*args, **kwargs)
            except EckartError as error:
                messages.print("[bold red]Error:[/] ", end="")
                messages.print(str(error), markup=False)
                raise typer.Exit(2) from None
            except KeyboardInterrupt as interrupt:
                messages.print(str(interrupt) or "Interrupted. Nothing was written.", markup=False)
                raise typer.Exit(INTERRUPTED) from None

    return wrapper


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, EckartWarning):
        messages.print("[bold yellow]Warning:[/] ", end="")
        messages.print(str(message), markup=False)


def megabytes(count: float) -> str:
    """Return a number of bytes in words."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Return a number of seconds in words."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
