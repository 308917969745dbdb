"""The process of a command: its standard streams, whatever they were when it was started."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from eckart.cli.console import FAILED, leave_stdout, messages


@contextmanager
def standard_streams() -> Iterator[None]:
    """Let what is inside print anything anywhere.

    Streams that were closed lead nowhere, characters that an encoding lacks are written as escapes, and help that
    cannot be written ends with a message and an exit code.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Else the next files that are opened get these numbers, and what others print goes into them.
            os.open(os.devnull, os.O_RDWR)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except OSError as error:  # of what prints help; commands turn their own into messages
        messages.print("Error: ", style="bold red", end="")
        messages.print(f"Standard output cannot be written: {error.strerror or error}.")
        raise SystemExit(FAILED) from None
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            leave_stdout()
