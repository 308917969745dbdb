from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("file_front")


def test_the_points_drawn_are_those_of_the_rows(front: ModuleType) -> None:
    def row(recipe: str, loss: float, **more: object) -> dict[str, object]:
        return {**front.SHOWN, "recipe": recipe, "log_perplexity": {front.TEXT: loss}, **more}

    ours = [
        row("dense", 3.0, share=1.0, bytes=9),
        row("auto", 3.5, share=0.25, bytes=60_000_000),
        row("auto", 3.25, share=0.5, bytes=120_000_000),
        row("auto", 9.0, share=0.5, bytes=120_000_000, seed=1),  # of another protocol
    ]
    theirs = [
        row("dense", 2.0, file_bytes=9),
        row("hqq 3-bit g64 embedding int8", 4.0, file_bytes=80_000_000),
        row("gptq (llm-compressor) W3 g64", 2.5, file_bytes=70_000_000),
    ]
    figure = front.draw(front.lines_of(ours, theirs))
    drawn = {line.get_gid(): line.get_xydata().tolist() for line in figure.axes[0].get_lines()}
    assert drawn == {front.OURS: [[120, 0.25], [60, 0.5]], "hqq": [[80, 2.0]], "gptq": [[70, 0.5]]}
    assert {"hqq 3-bit g64", "gptq W3 g64", front.OURS} <= {text.get_text() for text in figure.axes[0].texts}


def test_the_command_writes_the_picture_that_is_in_the_docs(front: ModuleType, tmp_path: Path) -> None:
    benchmarks = ROOT / "benchmarks"
    front.main(benchmarks / "whole_file.jsonl", benchmarks / "rivals.jsonl", tmp_path / "files.svg")
    assert (tmp_path / "files.svg").read_text() != (tmp_path / "files-dark.svg").read_text()
    for name in ("files.svg", "files-dark.svg"):
        assert (ROOT / "docs" / "figures" / name).is_file()
