"""Where text comes from: a file, a dataset, or the language reference inside every Python.

A text is named by a short specification, the same for calibration and for evaluation:

    FILE                            rows of the file joined by blank lines (the WikiText convention, see `read_text`)
    FILE:lines                      stripped lines joined by blank lines (the Penn Treebank convention)
    FILE:raw                        the file as it is
    FILE.jsonl[:FIELD]              one field ("text") of each JSON line, joined by blank lines
    dataset:NAME:SPLIT[:FIELD[:CONFIG]]   a Hugging Face dataset, or a local folder of one
    stream:NAME:SPLIT[:FIELD[:CONFIG]]    the same, of which only as many rows are read as are needed
    python-docs                     the calibration part of `pydoc_data.topics`
    python-docs:held-out            the part held out

A file is UTF-8, or what the byte order mark in front of it says. A row whose field is null is left out, with a warning.
Calibration takes several of them, as ``FILE + FILE.jsonl``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from eckart.data.rows import BETWEEN_ROWS, join_json_lines, read_dataset, split_lines
from eckart.errors import CalibrationError, suggest
from eckart.files.decoding import decode

PYTHON_DOCS = "python-docs"
DATASETS = ("dataset:", "stream:")
BETWEEN = " + "  # the parts of a mixture
HELD_OUT_EVERY = 5  # every fifth topic of the language reference is held out


def parts_of(specification: str) -> list[str]:
    """Return the specifications that a mixture is made of, one if it is none."""
    if os.path.exists(specification):  # unlike Path.exists, False for what no file can be called
        return [specification]
    return [part.strip() for part in specification.split(BETWEEN)]


def text_name(specification: str) -> str:
    """Return a specification without the way to its file or folder: what is made here is passed on to others."""
    parts = parts_of(specification)
    if len(parts) > 1:
        return BETWEEN.join(map(text_name, parts))
    if not specification.startswith(DATASETS):
        return Path(specification).name
    kind, name, *rest = specification.split(":")
    return ":".join([kind, Path(name).name if os.path.exists(name) else name, *rest])


def read_text(specification: str, enough: int | None = None) -> str:
    """Return the text that ``specification`` names (the forms are listed at the top of this module).

    Args:
        specification: of the text.
        enough: characters that are needed, of a source that is a stream; all others are read as a whole.

    Raises:
        CalibrationError: it cannot be found or read, or it is empty.
    """
    text = _find_reader(specification, enough)()
    if not text.strip():
        raise CalibrationError(f"The text {specification!r} is empty.")
    return text


def _find_reader(specification: str, enough: int | None) -> Callable[[], str]:
    if specification in (PYTHON_DOCS, f"{PYTHON_DOCS}:held-out"):
        return lambda: read_python_docs(held_out=specification != PYTHON_DOCS)
    if specification.startswith(DATASETS):
        return lambda: read_dataset(specification, enough)
    path, option = Path(specification), ""
    if not os.path.exists(path) and ":" in specification:
        name, _, option = specification.rpartition(":")
        path = Path(name)
    if not os.path.isfile(path):
        raise CalibrationError(
            f"No text is called {specification!r}. Expected a text file (FILE, FILE:lines, FILE:raw), "
            f"FILE.jsonl[:FIELD], dataset:NAME:SPLIT[:FIELD[:CONFIG]], {PYTHON_DOCS} or {PYTHON_DOCS}:held-out."
        )
    if path.suffix in (".jsonl", ".json"):
        return lambda: join_json_lines(read_file(path), path, option or "text")
    if option not in LINE_CONVENTIONS:
        known = suggest(option, filter(None, LINE_CONVENTIONS))
        raise CalibrationError(f"No way to read a text file is called {option!r}{known}")
    return lambda: LINE_CONVENTIONS[option](read_file(path))


def _rows(text: str) -> str:
    # The WikiText rows on the hub: a blank line is the empty string, any other keeps its newline.
    return BETWEEN_ROWS.join(line if line.strip() else "" for line in split_lines(text))


def _lines(text: str) -> str:
    return BETWEEN_ROWS.join(line.strip() for line in split_lines(text))


LINE_CONVENTIONS: dict[str, Callable[[str], str]] = {
    "": _rows,
    "rows": _rows,
    "lines": _lines,
    "raw": lambda text: text,
}


def read_file(path: Path) -> str:
    """Return a file of text.

    Raises:
        CalibrationError: it cannot be read, or is no text.
    """
    try:
        return decode(path.read_bytes()).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise CalibrationError(
            f"{path} is not {error.encoding.upper()} text: {error.reason} at byte {error.start}."
        ) from error
    except OSError as error:
        raise CalibrationError(f"{path} cannot be read: {error.strerror}.") from error


def read_python_docs(*, held_out: bool) -> str:
    """Return one of two parts of the Python language reference (about 0.5 MB in all) with no paragraph in common."""
    from pydoc_data.topics import topics

    names = sorted(topics)
    held_out_names = names[::HELD_OUT_EVERY]
    if held_out:
        return "\n\n".join(topics[name].strip() for name in held_out_names)
    # Topics quote one another at length: what is held out must not be learnt from a quotation.
    known = {paragraph.strip() for name in held_out_names for paragraph in topics[name].split("\n\n")}
    others = (paragraph for name in names if name not in held_out_names for paragraph in topics[name].split("\n\n"))
    return "\n\n".join(paragraph for paragraph in others if paragraph.strip() not in known)
