"""What goes wrong with a tiny model."""

from __future__ import annotations


class TinyModelError(Exception):
    """A class of which no tiny model can be made, or run; the message says why."""
