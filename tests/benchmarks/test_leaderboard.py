from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def leaderboard(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("leaderboard")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    lines = [f"Line {i} says that {i} squared is {i * i}." for i in range(100)]
    for name in (
        "wikitext2.train-head.txt",
        "wikitext2.test.txt",
        "wikitext2.valid.txt",
        "ptb.test.txt",
        "ptb.valid.txt",
    ):
        (folder / name).write_text("\n".join(lines), encoding="utf-8")
    for name in ("c4.calib.jsonl", "c4.eval.jsonl"):
        (folder / name).write_text("\n".join(json.dumps({"text": line}) for line in lines), encoding="utf-8")
    return folder


def test_what_is_measured_is_not_measured_again(leaderboard, model_folder, data, tmp_path, capsys, monkeypatch):
    output = tmp_path / "rows.jsonl"
    options = {"samples": 4, "windows": 2, "length": 32, "device": "cpu", "cache": tmp_path / "statistics"}
    leaderboard.main(model_folder, data, output, recipe=["svd", "io-svd"], keep=[0.7], **options)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["recipe"] for row in rows] == ["dense", "svd", "io-svd"]
    assert all(
        set(row["log_perplexity"]) == {"wikitext2.test.txt", "ptb.test.txt:lines", "c4.eval.jsonl"} for row in rows
    )
    assert all(row["kept"] <= 0.7 for row in rows[1:])
    shown = capsys.readouterr().out
    assert "| dense | 1 | 1.0000 |" in shown

    def fail(*_, **__):
        pytest.fail("evaluated again")

    with monkeypatch.context() as context:
        context.setattr(leaderboard.Texts, "log_perplexities", fail)
        leaderboard.main(model_folder, data, output, recipe=["svd", "io-svd"], keep=[0.7], **options)
    assert capsys.readouterr().out.endswith(shown[shown.index("| recipe |") :])

    leaderboard.main(model_folder, data, output, recipe=["io-svd"], keep=[0.7, 0.6], **options | {"samples": 2})
    more = [json.loads(line) for line in output.read_text().splitlines()][len(rows) :]
    assert [(row["recipe"], row["keep"], row["samples"]) for row in more] == [("io-svd", 0.7, 2), ("io-svd", 0.6, 2)]


def test_a_recipe_that_does_not_come_in_a_size_is_left_out(leaderboard, model_folder, data, tmp_path, capsys):
    output = tmp_path / "rows.jsonl"
    options = {"samples": 3, "windows": 2, "length": 32, "device": "cpu", "choose": True}
    shares = ["wikitext2.train-head.txt", "c4.calib.jsonl", "self"]
    leaderboard.main(model_folder, data, output, recipe=["eora", "svd"], keep=[0.25], calibration=shares, **options)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["recipe"] for row in rows] == ["dense", "svd"]
    assert rows[0]["calibration"] == shares
    assert set(rows[0]["log_perplexity"]) == {"wikitext2.valid.txt", "ptb.valid.txt:lines"}
    assert "eora at 0.25: keep 0.25 allows" in capsys.readouterr().out
