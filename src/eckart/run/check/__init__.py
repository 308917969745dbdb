"""What is known of a model before anything is measured on it."""

from __future__ import annotations

__all__: list[str] = []  # nothing here is public by itself
