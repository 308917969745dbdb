"""The choices that a recipe is made of."""

from __future__ import annotations

__all__: list[str] = []  # nothing here is public by itself
