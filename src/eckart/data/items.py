"""One item to calibrate on or to be asked about: what is known of it before a model's processor sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eckart.errors import CalibrationError

# What columns of data sets are called; the first that is there counts.
NAMES = {
    "image": ("image", "img", "images"),
    "sound": ("audio", "sound", "speech"),
    "text": ("text", "caption", "transcription", "transcript", "sentence"),
    "messages": ("messages", "conversation"),
    "prompt": ("prompt", "question", "instruction"),
    "answer": ("answer", "response", "completion", "output"),
    "label": ("label", "labels"),
}


class ItemError(CalibrationError):
    """An item that cannot be used, while others may be."""


@dataclass(frozen=True)
class Item:
    """An image, a sound, a text, or several of them.

    Attributes:
        where: it is from, for messages.
        image: its path or its encoded bytes.
        sound: the same of a sound.
        text: that belongs to it: the text itself, a caption, or what is said.
        messages: a conversation, as chat templates take it.
        prompt: what is asked.
        answer: to that.
        label: the name or the number of its class.
    """

    where: str
    image: Path | bytes | None = None
    sound: Path | bytes | None = None
    text: str | None = None
    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    answer: str | None = None
    label: str | int | None = None


def item_of(row: Mapping[str, Any], where: str, folder: Path | None, **known: Any) -> Item:
    """Return the item that a row describes.

    Args:
        row: by the names of its columns; those that are not in :data:`NAMES` are left alone.
        where: it is from.
        folder: that paths in it begin at; None where it holds files themselves.
        known: fields that do not come from the row, and that it may replace.

    Raises:
        ItemError: a field holds what it cannot.
    """
    fields: dict[str, Any] = dict(known)
    for field, names in NAMES.items():
        name = next((name for name in names if row.get(name) is not None), None)
        if name is not None:
            fields[field] = _value(field, row[name], f"{where}: the field {name!r}", folder)
    return Item(where, **fields)


def fields_of(row: Mapping[str, Any]) -> set[str]:
    """Return which fields of an item a row has."""
    return {field for field, names in NAMES.items() if any(row.get(name) is not None for name in names)}


def _value(field: str, value: Any, where: str, folder: Path | None) -> Any:
    if field in ("image", "sound"):
        return _file(value, where, folder)
    if field == "label":
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        raise ItemError(f"{where} holds {type(value).__name__}; expected the name or the number of a class.")
    if field == "messages":
        if isinstance(value, list) and value and all(isinstance(m, dict) and "role" in m for m in value):
            return [{**message, "content": _content(message, where)} for message in value]
        raise ItemError(f"{where} is no conversation; expected a list of objects with role and content.")
    if not isinstance(value, str):
        raise ItemError(f"{where} holds {type(value).__name__}; expected text.")
    return value


def _file(value: Any, where: str, folder: Path | None) -> Path | bytes:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):  # as data sets hold what is not decoded yet
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise ItemError(f"{where} holds {type(value).__name__}; expected the path of one file.")
    if "://" in value:
        raise ItemError(f"{where} is the address {value!r}, and nothing is downloaded; expected the path of a file.")
    return Path(value) if folder is None else folder / value


def _content(message: Mapping[str, Any], where: str) -> Any:
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    if not all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in parts) or not all(
        isinstance(part.get("text"), str) for part in parts if part["type"] == "text"
    ):
        raise ItemError(f"{where} has a message whose content is neither text nor a list of parts with a type each.")
    return content
