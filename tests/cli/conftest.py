from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.helpers import run


@pytest.fixture
def compressed(model_folder: Path, text_file: Path, tmp_path: Path) -> Path:
    out = tmp_path / "small"
    options = ["--keep", 0.6, "--calibration", text_file, "--samples", 4, "--length", 64, "--quiet"]
    result = run("compress", model_folder, "-o", out, *options)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def factored(model_folder: Path, tmp_path: Path) -> Path:
    """A folder whose layers are factored in 16 bits."""
    out = tmp_path / "factored"
    result = run("compress", model_folder, "-o", out, "--recipe", "svd", "--keep", 0.4, "--quiet")
    assert result.exit_code == 0, result.output
    return out
