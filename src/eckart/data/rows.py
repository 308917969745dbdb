"""Texts in rows: JSON lines, and data sets of the hub or of a local folder."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from eckart.data.dataset_rows import Columns, load_dataset
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


def json_rows(text: str, path: Path, what: str = "fields") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of JSON lines, each with where it is; blank lines are skipped.

    Args:
        text: the lines.
        path: where they are from, for messages.
        what: is looked for in them.

    Raises:
        CalibrationError: a line is no JSON object.
    """
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
            raise CalibrationError(f"{where} has no {what}: it is {_kind(row)}, expected an object.")
        yield where, row


def _json_values(text: str, path: Path, field: str) -> Iterator[tuple[str, object]]:
    for where, row in json_rows(text, path, f"text field {field!r}"):
        if field not in row:
            raise CalibrationError(f"{where} has no text field {field!r}{_other_fields(field, row)}")
        yield where, row[field]


def read_dataset(specification: str, enough: int | None = None) -> str:
    """Return one field of the rows of a data set, joined by blank lines.

    Args:
        specification: ``dataset:NAME:SPLIT[:FIELD[:CONFIG]]``, of which all rows are read, or ``stream:`` and the same,
            of which no more are read than are needed.
        enough: characters that are needed; None for all rows.

    Raises:
        CalibrationError: it cannot be loaded, is a folder that reaches out of itself, or a row's field holds no text.
    """
    columns = Columns.of(specification)
    name, field = columns.name, columns.text or "text"
    streamed = specification.startswith("stream:")
    rows = load_dataset(columns, streaming=streamed)
    first: dict[str, Any] = next(iter(rows.take(1)), {}) if streamed else (rows[0] if len(rows) else {})
    if field not in (rows.column_names or first):  # a stream may not know them
        raise CalibrationError(f"The dataset {name!r} has no text field {field!r}{_other_fields(field, first)}")
    source = f"The dataset {name!r}"
    found = (row[field] for row in rows) if streamed else rows[field]
    values = ((f"{source}, row {number}", value) for number, value in enumerate(found, start=1))
    return _joined(_first(values, enough) if streamed and enough else values, source, field)


def _first(values: Iterable[tuple[str, object]], enough: int) -> Iterator[tuple[str, object]]:
    """Yield the first values, up to so many characters of text."""
    for where, value in values:
        yield where, value
        enough -= len(value) if isinstance(value, str) else 0
        if enough <= 0:
            return


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
        " Add --chat, so that the tokenizer's chat template makes text of them, or write each chat as one text first, "
        "with tokenizer.apply_chat_template(messages, tokenize=False), into a file of JSON lines."
    )


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(message, dict) for message in value)
