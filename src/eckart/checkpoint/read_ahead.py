"""Asks the system to read tensors of files ahead of their use, while something else is computed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

LENGTH = 8  # bytes of the length of the header at the front of a safetensors file


class ReadAhead:
    """Knows where tensors lie in safetensors files. What goes wrong here is left to the reading itself."""

    def __init__(self) -> None:
        self._places: dict[Path, dict[str, tuple[int, int]]] = {}

    def want(self, tensors: Iterable[tuple[Path, str]]) -> None:
        """Have tensors read into the system's cache, without waiting for it.

        Args:
            tensors: file and name of each. Nothing happens where the system cannot be asked.
        """
        if not hasattr(os, "posix_fadvise"):
            return
        wanted: dict[Path, list[str]] = {}
        for path, name in tensors:
            wanted.setdefault(path, []).append(name)
        for path, names in wanted.items():
            with suppress(OSError, ValueError, KeyError, TypeError):
                places = self._of(path)
                file = os.open(path, os.O_RDONLY)
                try:
                    for name in names:
                        start, end = places[name]
                        os.posix_fadvise(file, start, end - start, os.POSIX_FADV_WILLNEED)
                finally:
                    os.close(file)

    def _of(self, path: Path) -> dict[str, tuple[int, int]]:
        if path not in self._places:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(LENGTH), "little")
                if length > path.stat().st_size:
                    raise ValueError("no header of a safetensors file")
                header = json.loads(file.read(length))
            front = LENGTH + length
            self._places[path] = {
                name: (front + entry["data_offsets"][0], front + entry["data_offsets"][1])
                for name, entry in header.items()
                if name != "__metadata__"
            }
        return self._places[path]
