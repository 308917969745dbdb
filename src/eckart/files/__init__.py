"""Names, JSON and YAML that come from outside, read with care."""

from __future__ import annotations

__all__: list[str] = []  # nothing here is public by itself
