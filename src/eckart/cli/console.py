"""What all commands share: errors without tracebacks, signals, warnings in colour, quiet libraries."""

from __future__ import annotations

import functools
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Annotated, ParamSpec, TextIO, TypeVar, cast

import typer

from eckart.cli.plain import PlainConsole
from eckart.cli.stream import StandardStream, StreamError
from eckart.errors import EckartError, EckartWarning, ToldElsewhereError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

PIPE_WIDTH = 160  # a file or a pipe has no width of its own; tables should not be cut to that of a terminal


def _console(name: str, *, needed: bool, breaks_lines: bool) -> PlainConsole:
    stream = StandardStream(name, needed=needed)
    terminal = stream.isatty()
    return PlainConsole(
        file=cast(TextIO, stream),
        width=None if terminal else PIPE_WIDTH,
        soft_wrap=not (terminal or breaks_lines),
    )


output = _console("stdout", needed=True, breaks_lines=True)
# Work does not stop because nobody can be told of it; in a file or a pipe, names in messages are looked for and copied.
messages = _console("stderr", needed=False, breaks_lines=False)

TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that comes with a model. Read it first.")
]

Only = Annotated[
    list[str] | None,
    typer.Option(
        help="Compress these linear layers and leave all others: a module path, a glob such as '*.down_proj', or the "
        "name of a class. May be repeated.",
        show_default=False,
    ),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(help="Leave these linear layers as they are. As for --only.", show_default=False),
]

FAILED = 2
SIGNALLED = 128  # and the number of the signal, as shells have it


def command(run: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Turn the errors of a command into a message on standard error and an exit code."""

    @functools.wraps(run)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        from eckart.cli.libraries import quiet_libraries  # of these, help waits for none

        with quiet_libraries(), warnings.catch_warnings(), _termination_as_interrupt() as received:
            warnings.simplefilter("default")
            warnings.showwarning = _show_warning
            try:
                return run(*args, **kwargs)
            except ToldElsewhereError:
                raise typer.Exit(FAILED) from None
            except EckartError as error:
                _print_error(str(error))
                raise typer.Exit(FAILED) from None
            except OSError as error:  # of a file that was named, and that nothing before has refused
                _print_error(f"{error.filename or 'A file'} cannot be used: {error.strerror or error}.")
                raise typer.Exit(FAILED) from None
            except StreamError as error:
                leave_stdout()
                if error.broken_pipe:  # whoever reads has seen enough
                    raise typer.Exit(SIGNALLED + getattr(signal, "SIGPIPE", 13)) from None
                _print_error(f"Standard output cannot be written: {error}. What was to be made is made.")
                raise typer.Exit(FAILED) from None
            except KeyboardInterrupt as interrupt:
                messages.print(str(interrupt) or "Interrupted. Nothing was written.")
                raise typer.Exit(SIGNALLED + (received[0] if received else signal.SIGINT)) from None

    return wrapper


@contextmanager
def _termination_as_interrupt() -> Iterator[list[int]]:
    """Make of SIGTERM what Ctrl-C is, and give the list of what was received."""
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread
        yield received
        return
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_error(text: str) -> None:
    from eckart import processes  # PyTorch's, which help does not wait for

    where = processes.label()
    messages.print(f"Error{where and f' in {where}'}: ", style="bold red", end="")
    messages.print(text)


def leave_stdout() -> None:
    """Keep Python from failing once more at its end on what could not be written."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, EckartWarning):
        messages.print("Warning: ", style="bold yellow", end="")
        messages.print(str(message))


def megabytes(count: float) -> str:
    """Return a number of bytes in words."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Return a number of seconds in words."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
