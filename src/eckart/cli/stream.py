"""The standard streams as they are at the moment of writing, with what may go wrong about them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TextIO


class StreamError(Exception):
    """What a command prints cannot be written.

    Attributes:
        broken_pipe: whether nobody reads it any more.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror or str(error))
        self.broken_pipe = isinstance(error, BrokenPipeError)


class StandardStream:
    """A standard stream.

    Args:
        name: of it in :mod:`sys`.
        needed: whether it is an error that it cannot be written.
    """

    def __init__(self, name: str, *, needed: bool) -> None:
        self.name, self.needed = name, needed

    def write(self, text: str) -> int:
        """Write text, as far as there is anybody to read it."""
        self._try(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Hand over what was written."""
        self._try(lambda stream: stream.flush())

    def isatty(self) -> bool:
        """Return whether a person reads it."""
        stream = self._stream()
        return stream is not None and stream.isatty()

    def fileno(self) -> int:
        """Return the number of its file."""
        stream = self._stream()
        if stream is None:
            raise OSError(f"{self.name} is closed")
        return stream.fileno()

    @property
    def encoding(self) -> str:
        """How characters become bytes."""
        return getattr(self._stream(), "encoding", None) or "utf-8"

    def _stream(self) -> TextIO | None:
        stream: TextIO | None = getattr(sys, self.name)
        if stream is None or stream.closed:
            return None
        # A progress bar puts something in its place that prints by way of here.
        return getattr(stream, "rich_proxied_file", stream)

    def _try(self, action: Callable[[TextIO], object]) -> None:
        stream = self._stream()
        if stream is None:
            return
        try:
            action(stream)
        except OSError as error:
            if self.needed:
                raise StreamError(error) from error
