"""Stands in for the store of a sweep until that is merged: one JSON row a measurement."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from eckart.sweep.row import SweepRow


def read_rows(path: Path) -> list[SweepRow]:
    """Return the rows of a sweep file."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return [SweepRow.model_validate_json(text) for (text,) in connection.execute("SELECT row FROM rows")]
