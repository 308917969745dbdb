"""A model as a list of blocks that are run one at a time."""

from __future__ import annotations

__all__: list[str] = []  # nothing here is public by itself
