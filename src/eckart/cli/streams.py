"""Where commands print: as it is, whatever it is, and without a traceback where it cannot be written."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from eckart.errors import EckartError

PIPE_WIDTH = 160  # a file or a pipe has no width of its own; tables should not be cut to that of a terminal
NOT_WRITTEN = 2  # exit code where standard output cannot be written, as where anything else cannot be
NOBODY_READS = 141  # 128 + SIGPIPE, as shells have it

# Of names and texts of others, what would move the cursor or change the terminal, and halves of characters.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def literal(text: str) -> str:
    r"""Return a text with control characters, but for ends of lines and tabulators, written as ``\x1b``."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class PlainConsole(Console):
    """Prints text literally: square brackets are no markup, colons name no pictures, control characters are shown."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as text that can be printed; cells of tables come through here, too."""
        return super().render_str(literal(text), **options)

    def on_broken_pipe(self) -> None:
        """Stop: whoever reads has seen enough."""
        discard_output()
        raise SystemExit(NOBODY_READS)


class OutputError(EckartError):
    """Standard output that cannot be written."""


class _Stream(io.TextIOBase):
    """A standard stream as it is now: tests and progress displays put others in its place.

    Args:
        held: write to this stream in place of the one that is there when something is written.
    """

    name = ""

    def __init__(self, held: TextIO | None = None) -> None:
        self.held = held

    @property
    def _now(self) -> TextIO | None:
        stream = self.held or getattr(sys, self.name)
        return getattr(stream, "rich_proxied_file", stream)  # what a progress display stands before

    def write(self, text: str) -> int:
        try:
            if self._now is not None:
                self._now.write(text)
        except (OSError, ValueError) as error:
            self._failed(error)
        return len(text)

    def flush(self) -> None:
        try:
            if self._now is not None:
                self._now.flush()
        except (OSError, ValueError) as error:
            self._failed(error)

    def isatty(self) -> bool:
        stream = self._now
        return stream is not None and not stream.closed and stream.isatty()

    def fileno(self) -> int:
        if self._now is None:
            raise io.UnsupportedOperation("fileno")
        return self._now.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._now, "encoding", None) or "utf-8"

    def _failed(self, error: OSError | ValueError) -> None:
        raise NotImplementedError


class _Output(_Stream):
    name = "stdout"

    def _failed(self, error: OSError | ValueError) -> None:
        if isinstance(error, BrokenPipeError | ValueError):
            raise error
        discard_output()
        raise OutputError(f"Standard output cannot be written: {error.strerror or error}.") from error


class _Messages(_Stream):
    name = "stderr"

    def _failed(self, error: OSError | ValueError) -> None:
        """Go on: a run must not end because nobody can be told of it."""


def _console(stream: _Stream) -> PlainConsole:
    return PlainConsole(file=stream, width=None if stream.isatty() else PIPE_WIDTH)


output, messages = _console(_Output()), _console(_Messages())


def say(kind: str, colour: str, text: str) -> None:
    """Print a message on standard error behind what kind of message it is, such as ``Error``."""
    words = Text.assemble((f"{kind}:", f"bold {colour}"), f" {literal(text)}")
    # In a file or a pipe a line is not broken: names in it are looked for, and copied.
    messages.print(words, soft_wrap=not messages.is_terminal)


def progress_display(*behind: ProgressColumn, disable: bool, hold: bool = False) -> Progress:
    """Return an empty progress display on standard error, which leaves nothing behind.

    Args:
        behind: columns between the count and the time left.
        disable: whether to show nothing.
        hold: show it on what is standard error now, even where something else is put in its place meanwhile.
    """
    console = _console(_Messages(sys.stderr)) if hold else messages
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
    return Progress(*columns, *behind, TimeRemainingColumn(), console=console, disable=disable, transient=True)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Let what is inside print anything anywhere.

    Streams that whoever started this closed lead nowhere, characters that an encoding lacks are written as escapes, and
    an output that cannot be written ends with a message and an exit code.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # It takes the number of the closed one, so that no file that is opened later does.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except OSError as error:  # of what prints help
        say("Error", "red", f"Standard output cannot be written: {error.strerror or error}.")
        raise SystemExit(NOT_WRITTEN) from None
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            discard_output()


def discard_output() -> None:
    """Lead standard output nowhere: what waits there to be written would fail again at the end of the process."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
