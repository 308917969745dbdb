"""Where items come from: a folder of images or of sounds, rows of JSON, a data set."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from eckart.data.dataset_rows import Columns, open_dataset
from eckart.data.items import Item, ItemError, fields_of, item_of
from eckart.data.rows import json_rows
from eckart.data.text import DATASETS, read_file
from eckart.errors import CalibrationError

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SOUNDS = (".wav", ".flac", ".ogg", ".mp3")
METADATA = ("metadata.jsonl", "metadata.csv")
FILE_NAMES = ("file_name", "image_file_name", "audio_file_name")  # as the data sets library has them
CAPTION = ".txt"
LOOKED_AT = 20  # rows, for the fields that rows have


@dataclass(frozen=True)
class ItemSource:
    """Items that can be read one after another.

    Attributes:
        name: of the source.
        fields: that items of it have, as its first rows show.
        count: of its items; None for a stream, which does not know.
        get: gives the item of a number.
        stream: gives all, in an order drawn with a seed; the second number is how many are wanted.
    """

    name: str
    fields: frozenset[str]
    count: int | None
    get: Callable[[int], Item]
    stream: Callable[[int, int], Iterator[Item | ItemError]] | None = None


def find_items(specification: str) -> ItemSource | None:
    """Return the items that a source holds, or None if it holds text only.

    Args:
        specification: a folder, ``FILE.jsonl`` or ``dataset:NAME:SPLIT[::CONFIG]``.

    Raises:
        CalibrationError: it is a folder without images and sounds, or cannot be read.
    """
    if os.path.isdir(specification):
        return _in_folder(Path(specification))
    if specification.startswith(DATASETS):
        return _in_dataset(specification)
    path = Path(specification)
    if path.suffix in (".jsonl", ".json") and os.path.isfile(path):
        return _in_rows(path)
    return None


def _in_folder(folder: Path) -> ItemSource:
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGES + SOUNDS and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )
    described = _metadata(folder)
    if not files:
        raise CalibrationError(
            f"The folder {folder} holds no images ({', '.join(IMAGES)}) and no sounds ({', '.join(SOUNDS)})."
        )
    fields = {"image" if path.suffix.lower() in IMAGES else "sound" for path in files[:LOOKED_AT]}

    def get(number: int) -> Item:
        path = files[number]
        name = path.relative_to(folder)
        caption = path.with_suffix(CAPTION)
        known: dict[str, Any] = {"image" if path.suffix.lower() in IMAGES else "sound": path}
        if caption.is_file():
            known["text"] = read_file(caption).strip()
        if len(name.parts) > 1:
            known["label"] = name.parts[0]
        return item_of(described.get(name.as_posix(), {}), str(path), folder, **known)

    for row in islice(described.values(), LOOKED_AT):
        fields |= fields_of(row)
    if any(path.with_suffix(CAPTION).is_file() for path in files[:LOOKED_AT]):
        fields.add("text")
    if any(len(path.relative_to(folder).parts) > 1 for path in files[:LOOKED_AT]):
        fields.add("label")
    return ItemSource(str(folder), frozenset(fields), len(files), get)


def _metadata(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Return what the file of metadata in a folder says of each of its files, by their paths in it."""
    path = next((folder / name for name in METADATA if (folder / name).is_file()), None)
    if path is None:
        return {}
    text = read_file(path)
    if path.suffix == ".csv":
        rows = [(f"{path}, row {n}", dict(row)) for n, row in enumerate(csv.DictReader(text.splitlines()), start=1)]
    else:
        rows = list(json_rows(text, path))
    found: dict[str, Mapping[str, Any]] = {}
    for where, row in rows:
        name = next((row.pop(name) for name in FILE_NAMES if isinstance(row.get(name), str)), None)
        if name is None:
            raise CalibrationError(f"{where} has no file_name, which says what it describes.")
        # Not the file itself once more.
        found[Path(name).as_posix()] = {key: value for key, value in row.items() if value not in (None, "")}
    return found


def _in_rows(path: Path) -> ItemSource:
    rows = list(json_rows(read_file(path), path))
    fields = {field for _, row in rows[:LOOKED_AT] for field in fields_of(row)}

    def get(number: int) -> Item:
        where, row = rows[number]
        return item_of(row, where, path.parent)

    return ItemSource(str(path), frozenset(fields), len(rows), get)


def _in_dataset(specification: str) -> ItemSource:
    columns = Columns.of(specification)
    rows, names = open_dataset(columns)

    def get(number: int) -> Item:
        raise CalibrationError(f"{specification} is read from its beginning; it has no row {number}.")

    def stream(seed: int, wanted: int) -> Iterator[Item | ItemError]:
        for number, row in enumerate(rows(seed, wanted), start=1):
            try:
                yield item_of(row, f"The dataset {columns.name!r}, row {number} as drawn", None)
            except ItemError as error:
                yield error

    return ItemSource(specification, frozenset(fields_of(dict.fromkeys(names, 0))), None, get, stream)
