"""The named recipes, and how recipes are read."""

from __future__ import annotations

__all__: list[str] = []  # nothing here is public by itself
