from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tests.cli.helpers import run, words


def test_from_a_run_to_a_page(compressed: Path, model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    options = ["--text", text_file, "--length", 32, "--windows", 3, "--baseline", model_folder, "--prompt", "Line 7"]
    shown = run("eval", compressed, *options)
    assert words(shown.output).count(f"{compressed}: ") == 1
    measured = run("eval", compressed, *options, "--json").stdout
    (sample,) = json.loads(measured)["samples"]
    assert sample["prompt"] == "Line 7"
    (tmp_path / "eval.json").write_text(measured)
    page = tmp_path / "page.html"
    result = run("report", compressed, tmp_path / "eval.json", tmp_path / "nowhere", "-o", page, "--title", "<b>")
    assert result.exit_code == 1, result.output  # of what could not be read
    assert "Warning: Left out: There is no file or folder" in words(result.stderr)
    assert f"Wrote {page}: 2 models" in words(result.stdout)
    text = page.read_text(encoding="utf-8")
    assert "<h1>&lt;b&gt;</h1>" in text
    for part in ("quality-bytes", "depth-block", "spectra", "rank-map", "times", "What was left out"):
        assert part in text


def test_mistakes_are_named(compressed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    for arguments, message in (
        ([tmp_path / "nowhere"], "There is no run to show. Left out: There is no file or folder"),
        ([compressed, "-o", tmp_path / "folder"], "is a folder; expected the name of a file to write"),
        ([compressed, "-o", tmp_path / "no" / "page.html"], "cannot be written: there is no folder"),
    ):
        result = run("report", *arguments)
        assert result.exit_code == 2
        assert message in words(result.stderr)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    result = run("report", compressed, "-o", tmp_path / "page.html")
    assert result.exit_code == 2
    assert "pip install 'eckart[report]'" in words(result.stderr)
