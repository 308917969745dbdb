"""Text that comes with Python: the language reference and the source of the standard library."""

from __future__ import annotations

import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from eckart.data.text import PYTHON_DOCS, parts_of, read_text

BETWEEN = "\n\n"
PIECE = 4000  # characters of a document that is cut out of a text, about
LEAST = 500  # characters of a document that is worth it
EVERY, VALIDATION, TEST = 20, 3, 7  # of twenty documents of a text, the third and the seventh are held out
LEFT_OUT = {"site-packages", "test", "tests", "idlelib", "__pycache__", "lib2to3", "encodings", "pydoc_data"}


def text_parts(source: str | None = None) -> dict[str, str]:
    """Return texts for training, validation and test that have no document in common.

    Args:
        source: a specification of :func:`eckart.data.text.read_text`, or several with `` + `` between them; None for
            what comes with Python.
    """
    if source is not None:
        found = {"train": [piece for part in parts_of(source) for piece in _pieces(read_text(part))]}
    else:
        # The held-out part of the reference quotes nothing of the other one.
        held_out = list(_pieces(read_text(f"{PYTHON_DOCS}:held-out")))
        found = {"train": list(_library()), "validation": held_out[::2], "test": held_out[1::2]}
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []} | {
        part: found[part] for part in ("validation", "test") if part in found
    }
    random.Random(0).shuffle(found["train"])
    for number, document in enumerate(found["train"]):
        part = {VALIDATION: "validation", TEST: "test"}.get(number % EVERY, "train")
        parts[part].append(document)
    if source is None:
        parts["train"].extend(_pieces(read_text(PYTHON_DOCS)))
    for documents in parts.values():
        random.Random(1).shuffle(documents)
    return {part: BETWEEN.join(documents) for part, documents in parts.items()}


def _library() -> Iterator[str]:
    """Yield the modules of the standard library; tests are left out, as many systems do not have them."""
    folder = Path(sysconfig.get_path("stdlib"))
    for path in sorted(folder.rglob("*.py")):
        if LEFT_OUT.isdisjoint(path.relative_to(folder).parts):
            text = path.read_text(encoding="utf-8", errors="replace")
            if len(text) >= LEAST:
                yield text.strip()


def _pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces of whole paragraphs."""
    piece: list[str] = []
    for paragraph in text.split(BETWEEN):
        piece.append(paragraph)
        if sum(map(len, piece)) >= PIECE:
            yield BETWEEN.join(piece)
            piece = []
    if sum(map(len, piece)) >= LEAST:
        yield BETWEEN.join(piece)
