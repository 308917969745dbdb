from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.report.helpers import perplexity, report, sweep_row

from eckart.checkpoint.records import write_records
from eckart.compression.result import REPORT_NAME
from eckart.errors import EckartError
from eckart.evaluate.speed.compare import Speed, Spread
from eckart.report import gather


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "runs" / "small")


def make_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    write_records(path, report())
    provenance = {"source": "a/model"}
    (path / "config.json").write_text(json.dumps({"quantization_config": {"provenance": provenance}}))
    return path


def write(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data))
    return path


def evaluation(model: str, **more: object) -> dict[str, Any]:
    row = {"text": "some/wiki.txt", **perplexity(30.0).model_dump(), "baseline": perplexity(20.0).model_dump()}
    return {"model": model, "baseline": "dense", "texts": [row], **more}


def test_a_folder_is_read_whole(folder: Path) -> None:
    (run,) = gather([folder, folder]).runs
    assert (run.name, run.recipe, run.model, run.keep, run.kept) == ("small", "svd-llm", "a/model", 0.5, 0.5)
    assert (run.bytes, run.dense_bytes) == (200_000 - 8 * 64 * 64, 200_000)
    assert run.report is not None
    assert len(run.report.spectra) == 8
    assert run.seconds == 8.7


@pytest.mark.parametrize("name", ["runs/small", "small", "elsewhere/small"])
def test_what_was_measured_is_joined_by_folder_or_name(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    samples = [{"prompt": "Once", "text": "upon", "baseline": "again"}]
    found = gather([write(tmp_path / "x.json", evaluation(name, samples=samples)), folder])
    run, dense = found.runs
    assert (run.texts, found.notes) == ({"wiki.txt, 8 × 64 tokens": perplexity(30.0)}, [])
    assert dense.is_dense
    assert dense.texts == {"wiki.txt, 8 × 64 tokens": perplexity(20.0)}
    assert (dense.bytes, dense.model) == (200_000, "a/model")
    assert [run.samples[0].text, dense.samples[0].text] == ["upon", "again"]


def test_a_name_that_two_folders_have_is_of_neither(folder: Path, tmp_path: Path) -> None:
    other = make_folder(tmp_path / "more" / "small")
    found = gather([folder, other, write(tmp_path / "x.json", evaluation("nowhere/small"))])
    assert [run.name for run in found.runs] == ["small", "small (2)"]
    assert not any(run.texts for run in found.runs)
    assert "x.json is of no run that was handed over: it names nowhere/small." in found.notes[0]
    by_path = gather([folder, other, write(tmp_path / "x.json", evaluation(str(other)))])
    assert [bool(run.texts) for run in by_path.runs[:2]] == [False, True]


def test_speeds_are_those_beside_the_first_model(folder: Path, tmp_path: Path) -> None:
    def speed(model: str, batch: int, tokens: float) -> dict[str, Any]:
        spread = Spread.of([tokens])
        facts = {"prompt": 8, "generate": 4, "weight_bytes": 1, "cache_bytes_per_token": 1.0, "peak_bytes": None}
        more = {"limit": "memory", "reached": 0.5, "first_token": spread, "prefill": spread, "decode": spread}
        return Speed(model=model, batch=batch, **facts, **more).model_dump()

    speeds = [speed("dense", 4, 9.0), speed(str(folder), 4, 9.0), speed("dense", 1, 2.0), speed(str(folder), 1, 3.0)]
    (run,) = gather([folder, write(tmp_path / "x.json", {"speeds": speeds, "machine": {}})]).runs
    assert run.speed is not None
    assert (run.speed.decode, run.speed.dense_decode) == (3.0, 2.0)


def test_a_sweep_gives_a_run_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sweep.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE anything (x)")
    connection.close()
    rows = [
        sweep_row(None, 1.0),
        sweep_row("svd-llm", 0.5),
        sweep_row("svd-llm", 0.5, tokens=64),
        sweep_row("svd", 0.5),
    ]
    monkeypatch.setattr("eckart.report.sources.read_rows", lambda found: rows if found == path else [])
    runs = gather([path]).runs
    assert [run.name for run in runs] == [
        "dense",
        "svd-llm at 0.5, 4,096 tokens",
        "svd-llm at 0.5, 64 tokens",
        "svd at 0.5, 4,096 tokens",
    ]
    assert runs[0].is_dense
    assert runs[1].texts == {"wiki.txt, 8 × 64 tokens": perplexity(30.0)}


def test_what_cannot_be_read_is_left_out_and_said(folder: Path, tmp_path: Path) -> None:
    newer = make_folder(tmp_path / "newer")
    data = json.loads((newer / REPORT_NAME).read_text()) | {"version": 7}
    (newer / REPORT_NAME).write_text(json.dumps(data))
    bad = tmp_path / "bad.txt"
    bad.write_text("text")
    found = gather([folder, newer, bad, tmp_path / "nowhere", write(tmp_path / "other.json", {"a": 1})])
    assert len(found.runs) == 1
    said = "\n".join(found.notes)
    for part in (
        "is of version 7, and this Eckart reads version 1",
        "bad.txt is no JSON",
        "There is no file or folder",
        "other.json cannot be read (model: Field required); expected a compressed folder, a sweep file",
    ):
        assert part in said
    with pytest.raises(EckartError, match=r"(?s)no run to show.*is of version 7"):
        gather([newer])
