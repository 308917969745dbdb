"""Files that a run reads from its beginning to its end, and whether they are still what they were."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from eckart.checkpoint.files import hash_of
from eckart.errors import CheckpointError, DamagedRunError

Signature = tuple[int, ...]


class SourceFiles:
    """The files of a model, as they are now.

    Args:
        paths: of the files.

    Raises:
        CheckpointError: one of them cannot be read.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self._signatures = {path: _signature(path) for path in paths}
        self._hashes: dict[Path, str] = {}

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of each file by its name. The files are read in full once.

        Raises:
            CheckpointError: one was changed since this object was made.
        """
        for path in self.paths:
            if path not in self._hashes:
                self._hashes[path] = _read(path)
                if _signature(path) != self._signatures[path]:
                    raise CheckpointError(f"{path} was changed while it was read. Start again when nobody writes it.")
        return {path.name: self._hashes[path] for path in self.paths}

    def check(self) -> None:
        """Look at sizes, times and places of the files, and at what is in them only where these are not as before.

        Raises:
            CheckpointError: a file is another one than it was.
        """
        for path, before in self._signatures.items():
            now = _signature(path)
            if now == before:
                continue
            if path not in self._hashes or _read(path) != self._hashes[path]:
                raise CheckpointError(
                    f"{path} was changed while the run read it. What is made of two models is of no use: put back the "
                    "file that it was."
                )
            self._signatures[path] = now

    def check_content(self) -> None:
        """Read the files in full once more.

        Raises:
            DamagedRunError: a file is another one than it was, so that nobody knows of which one the blocks were made.
        """
        for path, before in self._hashes.items():
            if _read(path) != before:
                raise DamagedRunError(
                    f"{path} was changed while the run read it: its SHA-256 was {before[:16]}... at the start, and is "
                    "another one now. Start again with --overwrite."
                )


def _signature(path: Path) -> Signature:
    try:
        found = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: Path) -> str:
    try:
        return hash_of(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read from the model's files: {error.strerror or error}.")
