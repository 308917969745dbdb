"""Keeps the exporters' many notes from whoever asked for a file."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what is printed, logged and warned of inside; errors still come out."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        # What is traced is full of notes on versions and on steps of the trace; nobody who exports can act on one.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
