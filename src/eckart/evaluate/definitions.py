"""Task definitions of lm-evaluation-harness: which there are, and what is wrong with a folder of them."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import yaml

from eckart.errors import EckartError, warn


def check_folder(path: Path) -> None:
    """Raise unless ``path`` is a folder with task definitions in it."""
    if not path.is_dir():
        raise EckartError(f"There is no folder {path}. Expected one with task definitions of lm-evaluation-harness.")
    if not any(path.rglob("*.yaml")):
        raise EckartError(f"The folder {path} has no task definitions; expected .yaml files of lm-evaluation-harness.")


def check_names(names: Sequence[str], known: Sequence[str], path: Path | None) -> None:
    """Raise unless all names are known, and tell which files could be the cause.

    Args:
        names: as requested.
        known: tasks, groups and tags.
        path: the folder of local definitions, whose files the harness skips in silence where it cannot read them.
    """
    broken = [] if path is None else _unreadable(path)
    for name in names:
        if name in known:
            continue
        close = get_close_matches(name, known, n=3, cutoff=0.6)
        guess = f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else "."
        where = "--task-path takes a folder of local definitions" if path is None else f"{path} does not define it"
        raise EckartError(
            f"No task is called {name!r}{guess} {'. '.join([*broken, where])}; `lm_eval ls tasks` lists the others."
        )
    if broken:
        warn(f"Skipped a task definition: {'; '.join(broken)}.")


def _unreadable(path: Path) -> list[str]:
    found = []
    for file in sorted(path.rglob("*.yaml")):
        try:
            yaml.compose(file.read_text(encoding="utf-8"))  # not load(): functions in it are named by tags
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            found.append(f"{file} cannot be read: {' '.join(str(error).split())}")
    return found
