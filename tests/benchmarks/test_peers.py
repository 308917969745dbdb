from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    # Processes that are spawned find it by this.
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS), prepend=":")
    return importlib.import_module("peers")


def test_ours_stand_beside_theirs(
    peers: ModuleType, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = [{"method": "SVD-LLM", "recipe": "svd-llm", "keep": 0.6, "seconds": 0.25, "peak_gb": 2.44}]
    (tmp_path / "theirs.json").write_text(json.dumps(theirs))
    peers.main(str(model_folder), "python-docs", samples=2, length=32, theirs=tmp_path / "theirs.json")
    row = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].strip("|").split("|")]
    assert row[:4] == ["SVD-LLM", "`svd-llm`", "0.6", "0 s"]
    # How much more than a quarter of a second is for the machine to say.
    assert float(row[5]) > 0


def test_the_rows_are_those_of_the_page(peers: ModuleType) -> None:
    page = (BENCHMARKS / "peers.md").read_text()
    for row in json.loads(peers.THEIRS.read_text()):
        first, second = row["perplexity"]
        cells = (row["method"], row["keep"], f"{first} / {second}", row["seconds"], f"{row['peak_gb']} GB")
        assert f"| {' | '.join(map(str, cells))} |" in page
