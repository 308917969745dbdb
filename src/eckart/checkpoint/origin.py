"""What the original model says of itself for people and for the hub: its licence, its language, what it is for."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers.utils import cached_file

from eckart.checkpoint.folder import QUIET
from eckart.files.names import file_inside

CARD_NAME = "README.md"
CARD_LIMIT = 10_000_000  # bytes
LICENCES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "USE_POLICY*")  # as they are called in a model's folder
# How they are called in a hub's repositories, which are not listed here.
ON_A_HUB = tuple(f"{name}{ending}" for name in ("LICENSE", "NOTICE") for ending in ("", ".txt", ".md"))
ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # of a model or a data set on a hub
TAG = re.compile(r"[A-Za-z0-9][\w.+-]*")
URL = re.compile(r"https://\S+|LICEN[SC]E[\w.]*")
# By the field of a card: what its values look like. What looks otherwise is left out.
FIELDS = {
    "license": TAG,
    "license_name": TAG,
    "license_link": URL,
    "language": TAG,
    "pipeline_tag": TAG,
    "datasets": ID,
}
TAGS = ["eckart", "low-rank", "compressed"]


def front_matter(source: str | Path, name: str, calibration: str | None) -> str:
    """Return what stands between the lines of dashes at the top of the card of a compressed model.

    Args:
        source: the original model: a folder, a hub id, or empty.
        name: that it is known by.
        calibration: the text that was calibrated on, as it was asked for.
    """
    fields: dict[str, Any] = {field: value for field, value in _of_its_card(source).items() if value}
    datasets = _as_list(fields.pop("datasets", []))
    calibrated = re.match(rf"(?:dataset|stream):({ID.pattern}):", calibration or "")
    if calibrated and calibrated[1] not in datasets:
        datasets.append(calibrated[1])
    if ID.fullmatch(name) and not Path(name).exists():
        fields |= {"base_model": name, "base_model_relation": "quantized"}  # the hub has no word that is nearer
    data = ModelCardData(library_name="transformers", tags=list(TAGS), datasets=datasets or None, **fields)
    return str(data.to_yaml())


def copy_licences(source: str | Path, target: Path) -> list[str]:
    """Copy the licences and notices of the original model into a folder, and return their names."""
    names = []
    for path in _licences(source):
        if not (target / path.name).exists():
            shutil.copyfile(path, target / path.name)
        names.append(path.name)
    return names


def _licences(source: str | Path) -> Iterator[Path]:
    folder = Path(source)
    if not str(source):
        return
    if folder.is_dir():
        for path in sorted({path for pattern in LICENCES for path in folder.glob(pattern) if path.is_file()}):
            yield file_inside(folder, path.name, limit=CARD_LIMIT)
        return
    for name in ON_A_HUB:
        if (found := _on_a_hub(source, name)) is not None:
            yield found


def _of_its_card(source: str | Path) -> dict[str, Any]:
    """Return the fields of the original model's card that hold for a compressed one, as far as they can be read."""
    folder = Path(source)
    try:
        if not str(source) or folder.is_file():
            return {}
        if folder.is_dir():
            path = file_inside(folder, CARD_NAME, limit=CARD_LIMIT) if (folder / CARD_NAME).exists() else None
        else:
            path = _on_a_hub(source, CARD_NAME)
        if path is None:
            return {}
        found = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    except Exception:  # somebody else's file, and readers of YAML that fail in many ways: the card does without it
        return {}
    return {field: value for field, pattern in FIELDS.items() if (value := _checked(found.get(field), pattern))}


def _checked(value: object, pattern: re.Pattern[str]) -> str | list[str] | None:
    """Return a field's text, or list of texts, of which only those that look as they should."""
    if isinstance(value, list):
        return [one for one in value if isinstance(one, str) and pattern.fullmatch(one)]
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _on_a_hub(source: str | Path, name: str) -> Path | None:
    try:
        found = cached_file(str(source), name, **QUIET)
    except (OSError, ValueError):  # no such repository, or no name of one
        return None
    return None if found is None else Path(found)
