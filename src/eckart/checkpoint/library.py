"""How the base library is called to load something: one caller at a time, and with its reasons put in our words."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

# While a model is built, transformers puts other functions into its own classes, and torch's default dtype is another:
# two loads at once would leave them there. Reentrant, since a load may need another one.
_ONE_AT_A_TIME = threading.RLock()
LONGEST = 2000  # characters of a reason: some hold all names of a model


@contextmanager
def loading() -> Iterator[None]:
    """Let no other thread load through this library meanwhile."""
    with _ONE_AT_A_TIME:
        yield


def reason_of(error: BaseException, source: str | Path) -> str:
    """Return why the base library could not load ``source``."""
    # Without the advice to look at a log that may be off.
    text = str(error).partition(" For details look at ")[0] or type(error).__name__
    if isinstance(error, RecursionError):
        return "a file of it is nested too deeply."
    if "trust_remote_code" in text:
        return needs_code(source)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def why_absent(error: BaseException, source: str | Path) -> str:
    """Return that ``source`` is no folder, and why the base library found no model of that name on a hub either."""
    if isinstance(error.__cause__, HFValidationError):
        return (
            f"{str(source)!r} is no local folder, and no hub model can have that name. Expected a model's folder, a "
            ".gguf file, or a name on a hub such as me/model."
        )
    if isinstance(error.__cause__, LocalEntryNotFoundError):
        return (
            f"{str(source)!r} is no local folder, and no hub model of that name was downloaded earlier; the hub cannot "
            "be reached now. Look at the path, or at the network."
        )
    return f"{str(source)!r} is no local folder, and no hub model: {reason_of(error, source)}"


def needs_code(source: str | Path) -> str:
    """Return that ``source`` cannot be loaded without running what it holds."""
    return (
        f"{source} needs Python code of its own (auto_map in its files), which is not run unless you ask for it. Read "
        "that code; if you trust it, add --trust-remote-code (in Python trust_remote_code=True)."
    )
