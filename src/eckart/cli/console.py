"""What all commands share: errors without tracebacks, warnings in colour, quiet libraries."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TextIO, TypeVar

import typer
from transformers.utils import logging

from eckart.cli.streams import messages as messages
from eckart.cli.streams import output as output
from eckart.cli.streams import say as say
from eckart.errors import EckartError, EckartWarning
from eckart.memory import parse_bytes

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

WRONG = 2  # exit code of what cannot be done as it was asked for, as of unknown options
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def command(run: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Turn the errors of a command into a message on standard error and an exit code."""

    @functools.wraps(run)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = _show_warning
            try:
                return run(*args, **kwargs)
            except EckartError as error:
                say("Error", "red", str(error))
                raise typer.Exit(WRONG) from None
            except BrokenPipeError:
                raise  # whoever reads has seen enough
            except OSError as error:
                say("Error", "red", f"{error.filename or 'A file'} cannot be used: {error.strerror or error}.")
                raise typer.Exit(WRONG) from None
            except KeyboardInterrupt as interrupt:
                messages.print(
                    str(interrupt) or "Interrupted. Nothing was written.", soft_wrap=not messages.is_terminal
                )
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
        say("Warning", "yellow", str(message))


def megabytes(count: float) -> str:
    """Return a number of bytes in words."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def size_in_bytes(option: str, size: str | None) -> int | None:
    """Return the bytes that an option asks for, or None if it is not given.

    Raises:
        EckartError: it is no size.
    """
    try:
        return None if size is None else parse_bytes(size)
    except ValueError:
        raise EckartError(f"{option} takes a size such as 8GB or 500MB, found {size!r}.") from None


def duration(seconds: float) -> str:
    """Return a number of seconds in words."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
