"""The command line: the same words as the library, a file a command."""

from __future__ import annotations

__all__: list[str] = []  # nothing here is public by itself
