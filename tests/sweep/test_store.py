from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.sweep.helpers import case_of, row_of

from eckart.errors import CheckpointError
from eckart.sweep.store import Store, read_failures, read_rows

IDENTITY = {"model": "abc", "calibration": {"seed": 0}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sweep.sqlite"


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def test_rows_come_back(path):
    store = Store(path, IDENTITY)
    case, other = case_of(), case_of("zs-svd+structure=pivoted", 0.7, 16)
    assert read_rows(path) == []
    assert store.row(case) is None
    rows = [row_of(case), row_of(other, ranks={"a": 3, "b": None})]
    for known, row in zip((case, other), rows, strict=True):
        store.add(known, row)
    assert read_rows(path) == rows
    assert Store(path, IDENTITY).row(other) == rows[1]
    assert store.row(case_of(keep=0.6)) is None


def test_a_row_takes_the_place_of_a_failure(path):
    store, case = Store(path, IDENTITY), case_of()
    failure = store.add_failure(case, "no memory")
    assert read_failures(path) == [failure]
    assert (failure.samples, failure.message) == (None, "no memory")
    store.add(case, row_of(case))
    assert read_failures(path) == []


def test_another_sweep_is_refused(path):
    Store(path, IDENTITY)
    with pytest.raises(CheckpointError, match=r"another sweep: calibration.seed was 0 and is 1. Ask for the same"):
        Store(path, {"model": "abc", "calibration": {"seed": 1}})


def test_another_recipe_of_the_same_name_is_refused(path):
    store, case = Store(path, IDENTITY), case_of("svd-llm")
    store.add(case, row_of(case))
    other = replace(case, recipe=case_of("svd-llm+objective.shrinkage=0.5").recipe)
    with pytest.raises(CheckpointError, match="another recipe that was called 'svd-llm' too"):
        store.row(other)


def test_another_version_is_refused(path):
    Store(path, IDENTITY)
    change(path, "PRAGMA user_version = 7")
    for use in (read_rows, lambda p: Store(p, IDENTITY)):
        with pytest.raises(CheckpointError, match="in format 7, and this version of Eckart reads format 1"):
            use(path)


def test_what_is_no_sweep_is_refused(path, tmp_path):
    with pytest.raises(CheckpointError, match="There is no file"):
        read_rows(path)
    path.write_text("a text, and rather a long one, since an empty file is an empty data base" * 20)
    with pytest.raises(CheckpointError, match="file is not a database"):
        read_rows(path)
    with pytest.raises(CheckpointError, match="is no file of a sweep"):
        Store(path, IDENTITY)
    change(tmp_path / "other.sqlite", "CREATE TABLE rows (x)")
    with pytest.raises(CheckpointError, match="is no file of a sweep"):
        read_rows(tmp_path / "other.sqlite")
    with pytest.raises(CheckpointError, match="there is no folder"):
        Store(tmp_path / "nowhere" / "sweep.sqlite", IDENTITY)


def test_a_broken_row_is_named(path):
    store, case = Store(path, IDENTITY), case_of()
    store.add(case, row_of(case))
    change(path, "UPDATE rows SET row = json_remove(row, '$.kept')")
    with pytest.raises(CheckpointError, match=r"The row of svd at 0.5 in .* is broken \(kept: Field required\)"):
        read_rows(path)
    change(path, "UPDATE rows SET row = 'not JSON'")
    with pytest.raises(CheckpointError, match="is broken"):
        store.row(case)


def test_a_file_that_was_never_begun_is_begun(path):
    path.touch()
    Store(path, IDENTITY)
    assert read_rows(path) == []
