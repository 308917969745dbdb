"""The mark of a folder that Eckart wrote: the list of its files. Only a folder with a mark is replaced, and of it only
what is listed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ValidationError

from eckart.checkpoint.files import hash_of, write_text
from eckart.compression.result import REPORT_NAME

LIST_NAME, PARTIAL_NAME = "eckart/files.json", "eckart/files.partial"
LIST_BYTES = 10_000_000  # no list is longer
VARIES = "eckart/timings.json"  # differs between two runs of the same, whose lists are the same
METHOD = "eckart"  # of quantization, in a config.json
# What can be in a compressed folder that was written before there were marks.
UNLISTED = (
    "config.json",
    "generation_config.json",
    "README.md",
    "eckart-*.safetensors",
    "eckart.safetensors.index.json",
    "eckart/report.json",
    "eckart/spectra.safetensors",
    VARIES,
    PARTIAL_NAME,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",  # of SentencePiece
)

Model = TypeVar("Model", bound=BaseModel)


class FileList(BaseModel):
    """The mark: what Eckart wrote into the folder, the SHA-256 of each file by its name, as ``folder/file``.

    It is empty for what differs between two runs of the same.
    """

    version: Literal[1] = 1
    files: dict[str, str]


class _Quantization(BaseModel):
    quant_method: str


class _Config(BaseModel):
    quantization_config: _Quantization


def write_list(folder: Path, without: Iterable[str] = ()) -> None:
    """Mark a folder as written by Eckart, with all that is in it now but for some files."""
    (folder / LIST_NAME).parent.mkdir(exist_ok=True)
    # One that was being written when its process was killed takes the name of the list, now.
    _write(folder, {*files_in(folder), LIST_NAME} - {PARTIAL_NAME, *without})


def files_in(folder: Path) -> set[str]:
    """Return all files in a folder by their way from it, links as what they are.

    Raises:
        OSError: a folder in it cannot be looked into.
    """
    found: set[str] = set()
    for name, folders, files in os.walk(folder, onerror=_raise):
        place = Path(name)
        links = [one for one in folders if (place / one).is_symlink()]
        found |= {(place / one).relative_to(folder).as_posix() for one in (*files, *links)}
    return found


def known_files(folder: Path) -> set[str] | None:
    """Return which files of a folder Eckart wrote; None if the folder is not one of Eckart's."""
    present = files_in(folder)
    listed = read_small(folder / LIST_NAME, FileList)
    if listed is not None:
        return present & {LIST_NAME, *listed.files}  # by name: a user's file may have taken it since
    config = read_small(folder / "config.json", _Config)
    if config is None or config.quantization_config.quant_method != METHOD or REPORT_NAME not in present:
        return None
    return {name for name in present if any(_fits(name, pattern) for pattern in UNLISTED)}


def changed_files(folder: Path) -> list[str]:
    """Return which listed files of a folder are gone, or are not as Eckart wrote them; none if there is no list.

    Raises:
        OSError: one cannot be read.
    """
    listed = read_small(folder / LIST_NAME, FileList)
    if listed is None:
        return []
    return sorted(
        name
        for name, found in listed.files.items()
        if found and not ((folder / name).is_file() and hash_of(folder / name) == found)
    )


def delete_known(folder: Path) -> None:
    """Delete what Eckart wrote into a folder, and the folder if nothing else is in it. Can be stopped and repeated.

    Raises:
        OSError: something cannot be deleted.
    """
    known = known_files(folder)
    if known:
        if LIST_NAME not in known:
            _write(folder, {*known, LIST_NAME})  # else a folder that is half deleted would not be known any more
        for name in sorted(known - {LIST_NAME}):
            os.unlink(folder / name)
        if files_in(folder) == {LIST_NAME}:
            os.unlink(folder / LIST_NAME)
    if not files_in(folder):
        for name, _, _ in os.walk(folder, topdown=False, onerror=_raise):
            os.rmdir(name)


def read_small(path: Path, model: type[Model]) -> Model | None:
    """Return what a small JSON file holds, or None if it is not there, no regular file, or holds something else."""
    try:
        if not path.is_file() or path.stat().st_size > LIST_BYTES:
            return None
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _write(folder: Path, names: set[str]) -> None:
    hashes = {
        name: "" if name == VARIES else hash_of(folder / name)
        for name in sorted(names - {LIST_NAME})
        if (folder / name).is_file()
    }
    write_text(folder / LIST_NAME, FileList(files=hashes).model_dump_json(indent=1) + "\n")


def _fits(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def _raise(error: OSError) -> None:
    raise error
