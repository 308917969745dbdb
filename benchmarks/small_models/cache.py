"""Where what is made here stays: one folder for each name and settings, outside of the repository."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock

VARIABLE = "ECKART_BENCHMARK_CACHE"
SETTINGS_NAME = "made-with.json"


def cache_folder(chosen: Path | None = None) -> Path:
    """Return the folder of all that is cached: the one chosen, that of :data:`VARIABLE`, or the platform's own."""
    if chosen is not None:
        return chosen
    if named := os.environ.get(VARIABLE):
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "eckart"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "eckart" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "eckart"


def cached(name: str, settings: Mapping[str, object], make: Callable[[Path], None], chosen: Path | None = None) -> Path:
    """Return a folder that was made with these settings, and make it where there is none.

    Args:
        name: what is in it.
        settings: all that it depends on; numbers and texts.
        make: fills the folder that it is given. What an earlier call left there that was cut off is still there, so
            that long work can go on from it.
        chosen: folder of all that is cached; None for the platform's own.

    Returns:
        The finished folder. It appears all at once, when ``make`` is done; two processes do not make the same one.
    """
    text = json.dumps(settings, sort_keys=True, indent=1)
    root = cache_folder(chosen)
    root.mkdir(parents=True, exist_ok=True)
    done = root / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    with FileLock(f"{done}.lock"):
        if not done.is_dir():
            unfinished = done.with_name(done.name + ".unfinished")
            unfinished.mkdir(exist_ok=True)
            make(unfinished)
            (unfinished / SETTINGS_NAME).write_text(text, encoding="utf-8")
            unfinished.rename(done)
    return done
