"""``eckart demo``: one small real model, compressed in a few ways, each loaded back and measured."""

from __future__ import annotations

from eckart.cli.demo.command import demo
from eckart.cli.demo.model import find_demo_model

__all__ = [
    "demo",
    "find_demo_model",
]
