"""Records that are damaged or hostile: a message and exit code 2, and one of them never stops the report of others."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.cli.helpers import run, words
from tests.report.helpers import report, sweep_row
from tests.sweep.helpers import case_of

from eckart.checkpoint.records import SPECTRA_NAME, TIMINGS_NAME, write_records
from eckart.compression.result import REPORT_NAME
from eckart.sweep.store import Store

DEEP = "[" * 100_000 + "]" * 100_000


def make(folder: Path) -> Path:
    """Write the records of a run that never was."""
    folder.mkdir(parents=True)
    write_records(folder, report())
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"provenance": {"source": "a/model"}}}))
    return folder


def at(*path: str | int, to: object) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = to

    return change


WRONG = {
    "no layers": at("layers", to=[]),
    "no outputs": at("layers", 0, "out_features", to=0),
    "no parameters": at("parameters", to=0),
    "a huge number": at("layers", 0, "bytes", to=10**400),
    "a larger number": at("parameters", to=2**63),
    "a number below": at("layers", 0, "bytes", to=-1),
    "a truth for a number": at("layers", 0, "rank", to=True),
    "words for a number": at("layers", 0, "in_features", to="64"),
    "a list for a number": at("requested_keep", to=[0.5]),
    "too much": at("requested_keep", to=1.5),
    "not a number": at("requested_keep", to=float("nan")),
    "an endless number": at("blocks", 0, "output", to={"relative": float("inf"), "cosine": 0.1}),
    "controls": at("layers", 0, "path", to="a\x1b[2Jb"),
    "half a character": at("layers", 0, "path", to="\ud800"),
    "no recipe": at("recipe", to=None),
    "an unknown recipe": at("recipe", "objective", to={"name": "nothing"}),
    "a list": at("layers", to={}),
    "deep": at("layers", to=json.loads("[" * 500 + "]" * 500)),
    "version": at("version", to=[1]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_report_that_cannot_be(name: str, tmp_path: Path) -> None:
    bad, good = make(tmp_path / "bad"), make(tmp_path / "good")
    data = json.loads((bad / REPORT_NAME).read_text())
    WRONG[name](data)
    (bad / REPORT_NAME).write_text(json.dumps(data))
    refused(bad, good, tmp_path)


@pytest.mark.parametrize("text", [DEEP, "", "null", "[]", "3", "\x00", '{"version": 1}'])
@pytest.mark.parametrize("file", [REPORT_NAME, TIMINGS_NAME])
def test_a_file_that_is_no_record(text: str, file: str, tmp_path: Path) -> None:
    bad, good = make(tmp_path / "bad"), make(tmp_path / "good")
    (bad / file).write_text(text)
    refused(bad, good, tmp_path, inspected=file == REPORT_NAME)


@pytest.mark.parametrize(
    "spectrum",
    [torch.ones(1, 3), torch.ones(3), torch.ones(2, 0), torch.full((2, 3), torch.nan), torch.ones(2, 3).long()],
)
def test_spectra_that_cannot_be(spectrum: torch.Tensor, tmp_path: Path) -> None:
    bad, good = make(tmp_path / "bad"), make(tmp_path / "good")
    save_file({report().layers[0].path: spectrum}, bad / SPECTRA_NAME)
    refused(bad, good, tmp_path, inspected=False)


def refused(bad: Path, good: Path, folder: Path, *, inspected: bool = True) -> None:
    """Check that ``bad`` is refused alone, and left out beside ``good``."""
    if inspected:
        for options in ([], ["--json"], ["--map"]):
            result = run("inspect", bad, *options)
            assert (result.exit_code, "Traceback" in result.output) == (2, False), result.output
            assert "Error: " in result.output
    pytest.importorskip("plotly")
    page = folder / "page.html"
    result = run("report", bad, good, "-o", page)
    assert result.exit_code == 1, result.output
    assert "Warning: Left out: " in result.output
    assert f"Wrote {page}: 1 model," in words(result.output)
    assert run("report", bad, "-o", folder / "none.html").exit_code == 2
    assert not (folder / "none.html").exists()


@pytest.mark.parametrize("path", ["[/nope]", "[bold]x[/nope]", "model.layers.[/].x", "$x_{", "<b>&", "%{x}"])
def test_names_are_shown_as_they_are(path: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    data = json.loads((folder / REPORT_NAME).read_text())
    data["layers"][0]["path"] = data["refinements"][0]["block"] = data["warnings"] = path
    data["warnings"] = [path]
    data["calibration"]["source"] = path
    data["recipe"]["name"] = path
    (folder / REPORT_NAME).write_text(json.dumps(data))
    shown = run("inspect", folder)
    assert shown.exit_code == 0, shown.output
    assert words(shown.output).count(path) >= 5
    assert run("inspect", folder, "--map").exit_code == 0
    pytest.importorskip("matplotlib")
    assert run("inspect", folder, "--map-image", tmp_path / "map.svg").exit_code == 0
    pytest.importorskip("plotly")
    assert run("report", folder, "-o", tmp_path / "page.html").exit_code == 0


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are Unicode")
def test_a_folder_whose_name_is_no_unicode(tmp_path: Path) -> None:
    folder = make(tmp_path / os.fsdecode(b"run-\xff"))
    (folder / TIMINGS_NAME).write_text("{")
    assert run("inspect", folder, "--json").exit_code == 0
    pytest.importorskip("plotly")
    assert run("report", folder, "-o", tmp_path / "page.html").exit_code == 2
    for name in (TIMINGS_NAME, SPECTRA_NAME):  # safetensors opens no file of such a name
        (folder / name).unlink()
    result = run("report", folder, "-o", tmp_path / os.fsdecode(b"page-\xff.html"))
    assert result.exit_code == 0, result.output


def test_numbers_that_no_curve_has_are_shown(tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    data = json.loads((folder / REPORT_NAME).read_text())
    data["layers"][0]["error"] = float("nan")
    data["refinements"][0]["epochs"][0]["training"] = float("inf")
    (folder / REPORT_NAME).write_text(json.dumps(data))
    assert run("inspect", folder).exit_code == 0
    pytest.importorskip("plotly")
    assert run("report", folder, "-o", tmp_path / "page.html").exit_code == 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE rows SET row = NULL WHERE 0",
        "UPDATE rows SET row = '[[['",
        "UPDATE rows SET row = x'ff'",
        "UPDATE rows SET row = 3, keep = 'x'",
        "DROP TABLE rows",
        "ALTER TABLE rows RENAME TO kept",
    ],
)
def test_a_sweep_that_is_damaged(statement: str, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    import sqlite3
    from contextlib import closing

    path, good = tmp_path / "sweep.sqlite", make(tmp_path / "good")
    store, case = Store(path, {}), case_of("svd-llm", 0.5, 8)
    store.add(case, sweep_row("svd-llm", 0.5))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)
        if "RENAME" in statement:  # a query that never ends
            connection.execute(
                "CREATE VIEW rows AS WITH RECURSIVE n(label, keep, row) AS "
                "(SELECT 'a', 0.5, '' UNION ALL SELECT label, keep, row FROM n) SELECT * FROM n"
            )
    result = run("report", path, good, "-o", tmp_path / "page.html")
    assert result.exit_code == (0 if "WHERE 0" in statement else 1), result.output
