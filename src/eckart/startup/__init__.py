"""What runs when a process starts: files that are found by their paths, and import nothing of this package."""

from __future__ import annotations

__all__: list[str] = []  # nothing here is public by itself
