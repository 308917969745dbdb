from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def front(monkeypatch) -> ModuleType:
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("front")


def row(front: ModuleType, recipe: str, keep: float, loss: float, **changed: object) -> dict[str, object]:
    return {
        **front.PROTOCOL,
        "recipe": recipe,
        "keep": keep,
        "kept": keep,
        "log_perplexity": {front.TEXT: loss},
        **changed,
    }


def test_the_points_drawn_are_those_of_the_rows(front):
    rows = [
        row(front, "dense", 1.0, 3.0, samples=64),
        row(front, "eckart", 0.6, 3.5),
        row(front, "eckart", 0.8, 3.25, kept=0.79),
        row(front, "eckart", 0.4, 9.0, seed=1),  # of another protocol
        row(front, "svd-llm", 0.6, 5.0),
        row(front, "io-svd+allocation.fill_budget=true", 0.6, 4.0),
        row(front, "io-svd+structure=pivoted", 0.6, 3.75),  # in no paper
        row(front, "gptq", 0.4, 3.2, kept=0.2812),
        row(front, "gptq", 0.3, 3.2, kept=0.2812),
    ]
    figure = front.draw(front.lines_of(rows))
    drawn = {line.get_gid(): line.get_xydata().tolist() for line in figure.axes[0].get_lines()}
    assert drawn == {
        "eckart": [[0.79, 0.25], [0.6, 0.5]],
        "svd-llm": [[0.6, 2.0]],
        front.BEST_PUBLISHED: [[0.6, 1.0]],
        "gptq": [[0.2812, pytest.approx(0.2)]],
    }
    said = {text.get_text() for text in figure.axes[0].texts}
    assert "io-svd†" in said
    assert figure.get_supxlabel() == front.FILLED


def test_without_topped_up_ranks_there_is_no_mark(front):
    figure = front.draw(front.lines_of([row(front, "dense", 1.0, 3.0), row(front, "io-svd", 0.6, 4.0)]))
    assert "io-svd" in {text.get_text() for text in figure.axes[0].texts}
    assert figure.get_supxlabel() == ""


def test_the_command_writes_the_picture_that_is_in_the_docs(front, tmp_path):
    rows = ROOT / "benchmarks" / "leaderboard.jsonl"
    front.main(rows, tmp_path / "front.svg")
    assert (tmp_path / "front.svg").read_text() != (tmp_path / "front-dark.svg").read_text()
    lines = front.lines_of(json.loads(line) for line in rows.read_text().splitlines())
    assert [(point.recipe, round(point.excess, 3)) for point in lines[front.BEST_PUBLISHED]] == [
        ("io-svd", 0.368),
        ("io-svd", 1.211),
        ("io-svd", 2.153),
        ("saes-svd", 2.544),
    ]
    for name in ("front.svg", "front-dark.svg"):
        assert (ROOT / "docs" / "figures" / name).is_file()
