"""The public verbs, and what is said and checked before they start."""

from __future__ import annotations

__all__: list[str] = []  # nothing here is public by itself
