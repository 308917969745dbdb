"""Writes a model in the formats of other runtimes, runs what was written, and compares."""

from __future__ import annotations

__all__: list[str] = []
