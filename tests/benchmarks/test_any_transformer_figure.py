from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import any_transformer_figure as figure
from small_models.subjects import SUBJECTS


def row(model: str, part: str, recipe: str, kept: float, **scores: float) -> dict[str, Any]:
    return {
        "model": model,
        "part": part,
        "recipe": recipe,
        "kept": kept,
        "scores": scores,
        "on": "test",
        "quick": False,
    }


ROWS = [
    row("vision-language", "all", "dense", 1.0, mean=0.95),
    row("vision-language", "vision", "eckart", 0.6, mean=0.9),
    row("vision-language", "vision", "eckart", 0.4, mean=0.8),
    row("vision-language", "both", "aa-svd+refinement.batch=8", 0.4, mean=0.7),
    row("mixture", "all", "svd-llm", 0.79, perplexity=12.0),
    row("encoder", "all", "zs-svd", 0.4, **{"spearman": 0.7, "cosine to dense": 0.6}),
]


def test_the_points_drawn_are_those_of_the_rows():
    drawn = {
        line.get_gid(): np.asarray(line.get_xydata()).tolist()
        for axes in figure.draw(ROWS).axes
        for line in axes.get_lines()
        if line.get_gid()
    }
    assert drawn == {
        "vision-language/vision/mean/eckart": [[0.4, 0.8], [0.6, 0.9]],
        "vision-language/both/mean/aa-svd": [[0.4, 0.7]],
        "mixture/all/perplexity/svd-llm": [[0.79, 12.0]],
        "encoder/all/spearman/zs-svd": [[0.4, 0.7]],
        "encoder/all/cosine to dense/zs-svd": [[0.4, 0.6]],
    }


def test_the_dense_model_is_a_line_in_each_panel_of_its_own():
    dense = [
        np.asarray(line.get_ydata())[0]
        for axes in figure.draw(ROWS).axes
        for line in axes.get_lines()
        if not line.get_gid()
    ]
    assert [value for value in dense if isinstance(value, float)] == [0.95, 0.95, 0.95]


def test_panels_are_of_models_and_parts_that_are_measured():
    for model, part, _, _ in figure.PANELS:
        assert part in SUBJECTS[model].parts


def test_both_pictures_are_written_and_are_the_same_every_time(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, {**ROWS[1], "on": "validation"}]))
    seen = set()
    for name in ("a.svg", "b.svg"):
        figure.main(rows, tmp_path / name)
        seen.add(((tmp_path / name).read_bytes(), (tmp_path / name.replace(".", "-dark.")).read_bytes()))
    assert len(seen) == 1
    ((light, dark),) = seen
    assert light != dark
