"""What libraries show on their own while a command runs: no bar, no note, no line on each try of a connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from huggingface_hub.utils import logging as hub_logging
from tqdm.std import tqdm
from transformers.utils import logging


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Show what a command says itself, and nothing of what it is made with; errors still come out."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()
    shown = tqdm.__init__
    tqdm.__init__ = _hidden(shown)
    try:
        yield
    finally:
        tqdm.__init__ = shown
        hub_logging.set_verbosity(before)


def _hidden(start: Any) -> Any:
    """Return what starts a bar of tqdm, which all kinds of it call, so that it counts and is not shown."""

    @wraps(start)
    def hidden(bar: Any, *args: Any, **kwargs: Any) -> None:
        start(bar, *args, **{**kwargs, "disable": True})

    return hidden
