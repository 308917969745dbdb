"""``eckart draft``."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.helpers import run, words


def test_draft_shows_candidates_and_what_was_measured(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    options = ["--recipe", "int8", "--keep", 0.6, "--keep", 0.55, "--calibration", text_file, "--text", text_file]
    numbers = ["--samples", 4, "--length", 24, "--texts", 2, "--prompt", 8, "--generate", 6, "--proposals", 2]
    shown = run("draft", model_folder, "-o", tmp_path / "one", *options, *numbers)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.count("int8") == 3
    assert "the same tokens behind 2 of 2 texts" in words(shown.stdout)
    found = json.loads(run("draft", model_folder, "-o", tmp_path / "two", *options, *numbers, "--json").stdout)
    assert [candidate["keep"] for candidate in found["candidates"]] == [0.6, 0.55]
    assert found["generation"]["same"] == 2


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    result = run("draft", tmp_path / "none", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "Error" in result.stderr
