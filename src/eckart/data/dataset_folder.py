"""A data set in a local folder, which somebody else may have written: all that is read of it must be inside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub.repocard import REGEX_YAML_BLOCK

from eckart.errors import CalibrationError, CheckpointError
from eckart.files.names import file_inside
from eckart.files.plain_yaml import MAX_CHARACTERS, PlainYamlError, parse_yaml

CARD, SETTINGS = "README.md", ".huggingface.yaml"  # where the datasets library looks for what files to read
MAX_CARD_BYTES = 8 * MAX_CHARACTERS
LOCATIONS = ("data_files", "data_dir")


def check_dataset_folder(folder: Path) -> None:
    """Raise if a folder holds a link out of it, or if its card names files outside of it.

    Args:
        folder: as the datasets library will load it.

    Raises:
        CalibrationError: names the file, and what it names.
    """
    try:
        _check_links(folder)
        for name in (CARD, SETTINGS):
            if (folder / name).exists():
                _check_card(file_inside(folder, name, limit=MAX_CARD_BYTES))
    except CheckpointError as error:
        raise CalibrationError(f"The dataset {str(folder)!r} cannot be used: {error}") from error
    except OSError as error:
        raise CalibrationError(f"The dataset {str(folder)!r} cannot be read: {error.strerror or error}.") from error


def _check_links(folder: Path) -> None:
    inside = folder.resolve()
    for where, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(where) / name
            if path.is_dir() and (not path.is_symlink() or path.resolve().is_relative_to(inside)):
                continue
            if path.exists():  # else it is a link to nothing, which nobody can read
                file_inside(folder, path.relative_to(folder).as_posix())


def _check_card(path: Path) -> None:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            text = file.read()
        if path.name == CARD:
            block = REGEX_YAML_BLOCK.search(text)
            text = "" if block is None else block.group(2)
        facts = parse_yaml(text)
    except (UnicodeDecodeError, PlainYamlError) as error:
        raise CheckpointError(f"the YAML of {path} cannot be read: {error}.") from error
    for name in _locations(facts.get("configs") if isinstance(facts, dict) else None):
        # A colon begins an address, or what is behind a chain of file systems.
        if os.path.isabs(name) or ":" in name or ".." in name.replace("\\", "/").split("/"):
            raise CheckpointError(
                f"{path} names the data {name!r}, which is outside its folder; expected a path in it. Copy the file "
                "into the folder if you trust it."
            )


def _locations(value: Any, *, named: bool = False) -> Iterator[str]:
    """Yield each text in plain data that says where files are."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _locations(part, named=named or key in LOCATIONS)
    elif isinstance(value, list):
        for part in value:
            yield from _locations(part, named=named)
    elif named and isinstance(value, str):
        yield value
