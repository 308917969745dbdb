"""Files of a folder that somebody else may have written: opened only if they are regular and inside it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from eckart.errors import CheckpointError

JSON_LIMIT = 128 * 2**20  # bytes; the largest vocabularies and indices of today have a third of that


def file_inside(folder: str | Path, name: object, *, limit: int | None = None) -> Path:
    """Return the path of the file ``name`` in ``folder``, if it is safe to open.

    Links are followed. They must end inside the folder, or among the blobs of a model or data set in a hub's
    cache, since that is how such a cache lays out its folders.

    Args:
        folder: that the name belongs to.
        name: as read from a file, or from the folder itself; may have slashes.
        limit: of its size in bytes.

    Raises:
        CheckpointError: it is no name, there is no such file, it is a folder, a pipe or a device, lies outside, or is
            too large.
    """
    folder = Path(folder)
    if not isinstance(name, str) or not name or "\0" in name:
        raise CheckpointError(f"{folder} names the file {name!r}; expected the name of a file in this folder.")
    path = folder / name
    try:
        inside = folder.resolve(strict=True)
        target = path.resolve(strict=True)
        found = target.stat()
    except FileNotFoundError:
        gone = f"{path} is a link to a file that is not there." if path.is_symlink() else f"There is no file {path}."
        raise CheckpointError(gone) from None
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise CheckpointError(f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}.") from error
    if os.path.isabs(name) or not (target.is_relative_to(inside) or _is_blob(target)):
        raise CheckpointError(
            f"{name} is outside the folder {folder}; only files inside it are opened. Copy the file into the folder if "
            "you trust it."
        )
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{path} is {_kind(found.st_mode)}; expected a regular file.")
    if limit is not None and found.st_size > limit:
        raise CheckpointError(f"{path} has {found.st_size:,} bytes; expected at most {limit:,}. It is damaged.")
    return path


def read_json(folder: str | Path, name: object, *, limit: int = JSON_LIMIT) -> Any:
    """Return what is in a file of JSON; see :func:`file_inside`.

    Raises:
        CheckpointError: the file must not be opened, or is no JSON.
    """
    return parse_json(file_inside(folder, name, limit=limit))


def parse_json(path: Path) -> Any:
    """Return what is in a file of JSON that may be opened.

    Raises:
        CheckpointError: it cannot be read, or is no JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        data = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(data, ensure_ascii=False).encode()  # raises for half of a character, which cannot be printed
        return data
    except RecursionError:
        raise CheckpointError(f"{path} cannot be read: it is nested too deeply.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error


def _is_blob(target: Path) -> bool:
    """Return whether a file lies where a hub's cache keeps the contents of its files."""
    return target.parent.name == "blobs" and target.parent.parent.name.startswith(("models--", "datasets--"))


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for is_kind, name in kinds if is_kind(mode)), "no file")
