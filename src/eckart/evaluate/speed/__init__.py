"""How fast models are, side by side, and what holds them back."""

from __future__ import annotations

from eckart.evaluate.speed.compare import Speed, compare
from eckart.evaluate.speed.roofline import Machine, Work, measure_machine

__all__ = [
    "Machine",
    "Speed",
    "Work",
    "compare",
    "measure_machine",
]
