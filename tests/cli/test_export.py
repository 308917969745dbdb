"""``eckart export``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.helpers import run, words


def test_a_dense_folder_and_what_is_told(compressed: Path, tmp_path: Path) -> None:
    result = run("export", compressed, "--to", "dense", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    told = words(result.stdout)
    assert f"Wrote {tmp_path / 'out'} (model; float32)" in told
    assert "layers were multiplied into dense ones." in told
    assert "at most 0.001 of that is let through" in told


def test_json(compressed: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    line = ("export", compressed, "--to", "gguf", "-o", tmp_path / "out", "--quantize", "q8_0", "--json")
    found = json.loads(run(*line).stdout)
    assert found["target"] == "gguf"
    assert found["quantize"] == "q8_0"
    assert found["tolerance"] is None
    assert found["bytes_written"] == (tmp_path / "out" / "model.gguf").stat().st_size


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--to", "gguff"), "did you mean 'gguf'"),
        (("--to", "dense", "--dtype", "int8"), "No dtype is called 'int8'. Use auto, float32"),
        (("--to", "dense", "--quantize", "int8"), "Nothing is quantized"),
    ],
)
def test_mistakes_end_with_2(options: tuple[str, ...], said: str, model_folder: Path, tmp_path: Path) -> None:
    result = run("export", model_folder, "-o", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert said in words(result.output)
    assert not (tmp_path / "out").exists()


def test_help_has_an_example() -> None:
    assert "eckart export smaller --to onnx" in words(run("export", "--help").output)
