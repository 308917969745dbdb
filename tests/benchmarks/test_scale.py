from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("scale")


def test_a_row_for_each_recipe(scale: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scale.main("tiny", ["svd-llm"], blocks=1, samples=2, length=32, folder=tmp_path / "model")
    head, _, row = capsys.readouterr().out.splitlines()[-3:]
    found = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    assert found["| recipe"] == "| svd-llm"
    assert found["factorisation"].endswith(" s")
    assert found["all blocks"]  # the shape has two
    assert float(found["peak"].removesuffix(" GB")) > 0.1
    assert sum(path.stat().st_size for path in (tmp_path / "model").iterdir()) > 128 * 256 * 2 * 2
