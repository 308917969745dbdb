"""Data sets of the hub or of a local folder: what their names say, and rows as a stream, no more than is needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eckart.data.dataset_folder import check_dataset_folder
from eckart.errors import CalibrationError

MORE_THAN_WANTED = 4  # times as many rows are held, to draw from: rows of one class may lie side by side


@dataclass(frozen=True)
class Columns:
    """What ``dataset:NAME:SPLIT[:FIELD[:CONFIG]]`` says, or ``stream:`` and the same.

    Attributes:
        name: of the data set, or its folder.
        split: of it.
        text: the field that holds text; empty if none is named.
        config: which of its configurations, if it has several.
    """

    name: str
    split: str
    text: str = ""
    config: str | None = None

    @classmethod
    def of(cls, specification: str) -> Columns:
        """Return what a specification says.

        Raises:
            CalibrationError: it is none.
        """
        _, *parts = specification.split(":")
        if not 2 <= len(parts) <= 4 or not all(parts[:2]):
            raise CalibrationError(f"Expected dataset:NAME:SPLIT[:FIELD[:CONFIG]], found {specification!r}.")
        return cls(*parts)


def load_dataset(columns: Columns, *, streaming: bool) -> Any:
    """Return a split of a data set as the data sets library has it.

    Raises:
        CalibrationError: the library is not installed, the data set cannot be loaded, or is a folder that reaches out
            of itself.
    """
    try:
        import datasets
    except ImportError as error:
        raise CalibrationError("Reading a dataset needs an extra: pip install 'eckart[datasets]'.") from error
    if os.path.isdir(columns.name):
        check_dataset_folder(Path(columns.name))
    try:
        return datasets.load_dataset(columns.name, columns.config, split=columns.split, streaming=streaming)
    except Exception as error:  # the library raises many kinds, from ValueError to its own network errors
        raise CalibrationError(f"The dataset {columns.name!r} cannot be loaded: {error}") from error


def open_dataset(columns: Columns) -> tuple[Callable[[int, int], Iterator[dict[str, Any]]], list[str]]:
    """Return what gives the rows of a data set in an order drawn with a seed, and the names of its columns.

    The first argument is the seed, the second how many rows are wanted. Images and sounds are not decoded, and numbers
    of classes are turned into their names.

    Raises:
        CalibrationError: it cannot be loaded; the rows raise it where they cannot be read.
    """
    rows = load_dataset(columns, streaming=True)
    from datasets import Audio, ClassLabel, Image

    names: dict[str, ClassLabel] = {}
    for name, feature in (rows.features or {}).items():
        if isinstance(feature, Image | Audio):
            rows = rows.cast_column(name, type(feature)(decode=False))
        elif isinstance(feature, ClassLabel):
            names[name] = feature

    def read(seed: int, wanted: int) -> Iterator[dict[str, Any]]:
        drawn = rows.shuffle(seed=seed, buffer_size=max(1, wanted * MORE_THAN_WANTED))
        try:
            for row in drawn:
                # A class that is not known is -1 in some data sets.
                classes = {name: feature.int2str(row[name]) for name, feature in names.items() if (row[name] or 0) >= 0}
                yield {**row, **classes}
        except Exception as error:  # of the library, of the network, of a file that is damaged
            raise CalibrationError(f"The dataset {columns.name!r} cannot be read: {error}") from error

    return read, list(rows.features or next(iter(rows.take(1)), {}))
