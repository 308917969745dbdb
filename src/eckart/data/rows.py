"""Texts in rows: JSON lines, and data sets of the hub or of a local folder."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from eckart.data.dataset_folder import check_dataset_folder
from eckart.errors import CalibrationError, suggest, warn
from eckart.files.decoding import half_character

BETWEEN_ROWS = "\n\n"


def split_lines(text: str) -> list[str]:
    """Return the lines of a text with their ends."""
    # Not splitlines(), which also splits at form feeds and at the line separators of Unicode.
    return list(io.StringIO(text, newline="\n"))


def join_json_lines(text: str, path: Path, field: str) -> str:
    """Return one field of each JSON line, joined by blank lines.

    Args:
        text: the lines; blank ones are skipped.
        path: where they are from, for messages.
        field: that holds text; null stands for a row without one.

    Raises:
        CalibrationError: a line is no JSON object, or its field holds no text.
    """
    return _joined(_json_values(text, path, field), str(path), field)


def _json_values(text: str, path: Path, field: str) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(split_lines(text), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise CalibrationError(f"{where} is not JSON: {error.msg}.") from error
        except RecursionError as error:
            raise CalibrationError(f"{where} is JSON that is nested too deep to be read.") from error
        except ValueError as error:
            raise CalibrationError(f"{where} is JSON with a number of more digits than can be read.") from error
        if not isinstance(row, dict):
            raise CalibrationError(f"{where} has no text field {field!r}: it is {_kind(row)}, expected an object.")
        if field not in row:
            raise CalibrationError(f"{where} has no text field {field!r}{_other_fields(field, row)}")
        yield where, row[field]


def read_dataset(specification: str) -> str:
    """Return one field of all rows of a data set, ``dataset:NAME:SPLIT[:FIELD[:CONFIG]]``, joined by blank lines.

    Raises:
        CalibrationError: it cannot be loaded, is a folder that reaches out of itself, or a row's field holds no text.
    """
    try:
        import datasets
    except ImportError as error:
        raise CalibrationError("Reading a dataset needs an extra: pip install 'eckart[datasets]'.") from error
    _, *parts = specification.split(":")
    if not 2 <= len(parts) <= 4 or not all(parts[:2]):
        raise CalibrationError(f"Expected dataset:NAME:SPLIT[:FIELD[:CONFIG]], found {specification!r}.")
    name, split = parts[:2]
    field = parts[2] if len(parts) > 2 and parts[2] else "text"
    if os.path.isdir(name):
        check_dataset_folder(Path(name))
    try:
        rows = datasets.load_dataset(name, parts[3] if len(parts) > 3 else None, split=split)
    except Exception as error:  # the library raises many kinds, from ValueError to its own network errors
        raise CalibrationError(f"The dataset {name!r} cannot be loaded: {error}") from error
    columns = rows.column_names or []  # a stream may not know them
    if field not in columns:
        row = rows[0] if len(rows) else {}
        raise CalibrationError(f"The dataset {name!r} has no text field {field!r}{_other_fields(field, row)}")
    source = f"The dataset {name!r}"
    values = ((f"{source}, row {number}", value) for number, value in enumerate(rows[field], start=1))
    return _joined(values, source, field)


def _joined(values: Iterable[tuple[str, object]], source: str, field: str) -> str:
    """Join texts, each with where it is from; an empty one is a blank line of its own, as in WikiText."""
    texts, absent = [], 0
    for where, value in values:
        if value is None:
            absent += 1
            continue
        if not isinstance(value, str):
            raise CalibrationError(f"{where}: the field {field!r} holds {_kind(value)}, expected text.{_advice(value)}")
        half = half_character(value)
        if half is not None:
            raise CalibrationError(
                f"{where}: the text has {half}, which is half a character and cannot be read by a tokenizer. Remove it."
            )
        texts.append(value)
    if absent:
        found = f"{absent} of {absent + len(texts)} rows have no text in their field {field!r}"
        warn(f"{source}: {found} and are left out.")
    return BETWEEN_ROWS.join(texts)


def _other_fields(field: str, row: dict[str, object]) -> str:
    """Return what a row has in the place of a field that it lacks, as the end of a sentence and what to do."""
    chat = next((key for key, value in row.items() if _is_chat(value)), None)
    if chat is not None:
        return f"; its field {chat!r} holds {_kind(row[chat])}.{_advice(row[chat])}"
    known = [key for key, value in row.items() if isinstance(value, str)]
    if not known:
        return (
            f", nor any other: it has {', '.join(map(repr, row)) or 'no fields at all'}. Use rows with a text in them."
        )
    return suggest(field, known)


def _kind(value: object) -> str:
    if _is_chat(value):
        return "a chat, which is a list of messages"
    kinds = {list: "a list", dict: "an object", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else kinds.get(type(value), type(value).__name__)


def _advice(value: object) -> str:
    if not _is_chat(value):
        return " Name a field that holds text."
    return (
        " Write each chat as one text first, with tokenizer.apply_chat_template(messages, tokenize=False), into a "
        "file of JSON lines."
    )


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(message, dict) for message in value)
