"""What allocators and output metrics know of the original model, measured block by block before anything is changed."""

from __future__ import annotations

__all__: list[str] = []  # nothing here is public by itself
