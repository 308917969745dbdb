"""The file of a sweep: an SQLite database that a row is in as soon as it is measured."""

from __future__ import annotations

import hashlib
import json
import reprlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from eckart.checkpoint.identity import differences
from eckart.checkpoint.output import SWEEP, check_output
from eckart.errors import CheckpointError, first_problem
from eckart.methods.recipe import Recipe
from eckart.sweep.case import Case
from eckart.sweep.row import SweepRow

VERSION = 1
OTHERS = 60.0  # seconds that another process may take to write
APPLICATION = 0x45434B54  # by which SQLite files of different programs are told apart
SCHEMA = """
CREATE TABLE sweep (identity TEXT NOT NULL);
CREATE TABLE rows (
    label TEXT NOT NULL, keep REAL NOT NULL, samples INTEGER NOT NULL, recipe TEXT NOT NULL, bytes INTEGER NOT NULL,
    kept REAL NOT NULL, row TEXT NOT NULL, PRIMARY KEY (label, keep, samples)
);
CREATE TABLE failures (
    label TEXT NOT NULL, keep REAL NOT NULL, samples INTEGER NOT NULL, message TEXT NOT NULL,
    PRIMARY KEY (label, keep, samples)
);
"""
TABLES = {"sweep", "rows", "failures"}


class Failure(BaseModel):
    """A row that could not be measured.

    Attributes:
        label: of the recipe.
        keep: the share that was asked for.
        samples: calibration samples; None if no data is looked at.
        message: why.
    """

    model_config = ConfigDict(frozen=True)

    label: str
    keep: float
    samples: int | None
    message: str


def read_rows(path: str | Path) -> list[SweepRow]:
    """Return the rows of a sweep's file, in the order in which they were measured.

    Raises:
        CheckpointError: there is no such file, it is none of a sweep or of another version, or a row in it is broken.
    """
    with _open(Path(path)) as connection:
        return [_row_of(Path(path), *found) for found in connection.execute("SELECT label, keep, row FROM rows")]


def read_failures(path: str | Path) -> list[Failure]:
    """Return what could not be measured; arguments and errors as for :func:`read_rows`."""
    with _open(Path(path)) as connection:
        found = connection.execute("SELECT label, keep, samples, message FROM failures").fetchall()
    try:
        return [Failure(label=label, keep=k, samples=n or None, message=text) for label, k, n, text in found]
    except ValidationError as error:
        raise CheckpointError(f"A failure in {path} is broken ({first_problem(error)}).") from error


class Store:
    """The file that a sweep writes.

    Args:
        path: of the file; made if it is not there.
        identity: what all rows have in common, as plain data.

    Raises:
        CheckpointError: the file is of another sweep, see :func:`read_rows`, or cannot be written.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        check_output(path, kind=SWEEP, overwrite=True)
        if not path.exists() or path.stat().st_size == 0:
            with _errors(path), closing(sqlite3.connect(path)) as connection, connection:
                # In one transaction, so that a file is either none or whole.
                connection.executescript(
                    f"BEGIN; {SCHEMA} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION};"
                )
                connection.execute("INSERT INTO sweep VALUES (?)", (json.dumps(identity),))
            return
        with _open(path) as connection:
            found = connection.execute("SELECT identity FROM sweep").fetchone()
        try:
            changed = differences(json.loads(found[0]) if found else None, identity)
        except (ValueError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{path} does not say what it is a sweep of. Measure into another file.") from error
        if changed:
            raise CheckpointError(
                f"{path} is of another sweep: {'; '.join(changed)}. Ask for the same as before, or use another output."
            )

    def row(self, case: Case) -> SweepRow | None:
        """Return the row of a case, or None if it is not there.

        Raises:
            CheckpointError: a recipe of this label is there which is another one.
        """
        with _open(self.path) as connection:
            query = "SELECT label, keep, row, recipe FROM rows WHERE label = ? AND keep = ? AND samples = ?"
            found = connection.execute(query, _key(case)).fetchone()
        if found is None:
            return None
        if found[3] != _digest(case.recipe):
            raise CheckpointError(
                f"{self.path} has rows of another recipe that was called {case.label!r} too. Rename the recipe, or use "
                "another output."
            )
        return _row_of(self.path, *found[:3])

    def add(self, case: Case, row: SweepRow) -> None:
        """Write the row of a case, down to the disk; it takes the place of one that is there, and of a failure."""
        with _open(self.path) as connection, connection:
            connection.execute(
                "REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*_key(case), _digest(case.recipe), row.bytes, row.kept, row.model_dump_json()),
            )
            connection.execute("DELETE FROM failures WHERE label = ? AND keep = ? AND samples = ?", _key(case))

    def add_failure(self, case: Case, message: str) -> Failure:
        """Write and return why a case could not be measured."""
        with _open(self.path) as connection, connection:
            connection.execute("REPLACE INTO failures VALUES (?, ?, ?, ?)", (*_key(case), message))
        return Failure(label=case.label, keep=case.keep, samples=case.samples, message=message)


def _key(case: Case) -> tuple[str, float, int]:
    return case.label, case.keep, case.samples or 0


def _digest(recipe: Recipe | None) -> str:
    return "" if recipe is None else hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()


def _row_of(path: Path, label: object, keep: object, text: object) -> SweepRow:
    try:
        return SweepRow.model_validate_json(text if isinstance(text, str) else "")
    except ValidationError as error:
        where = f"{label} at {keep:g}" if isinstance(keep, float) else reprlib.repr((label, keep))
        raise CheckpointError(
            f"The row of {where} in {path} is broken ({first_problem(error)}). Measure into another file."
        ) from error


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the file of a sweep of this version."""
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}. Expected one that `eckart sweep` wrote.")
    with _errors(path), closing(sqlite3.connect(path, timeout=OTHERS)) as connection:
        application, version = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if application != APPLICATION:
            raise CheckpointError(f"{path} is no file of a sweep. Expected one that `eckart sweep` wrote.")
        if version != VERSION:
            raise CheckpointError(
                f"{path} is the file of a sweep in format {version}, and this version of Eckart reads format "
                f"{VERSION}. Measure into another file."
            )
        connection.execute("PRAGMA trusted_schema = OFF")
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"
        tables = {name for (name,) in connection.execute(query)}
        if not tables >= TABLES:  # a view may be a query that never ends
            raise CheckpointError(f"{path} lacks tables of a sweep: {', '.join(sorted(TABLES - tables))}.")
        yield connection


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise CheckpointError(f"{path} cannot be read or written as the file of a sweep: {error}.") from error
