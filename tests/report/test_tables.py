"""Tables as plain data."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.report.helpers import dense_run, folder_run, perplexity

from eckart.compression.records import SketchRecord
from eckart.report.quality import Measure, measures
from eckart.report.runs import Run
from eckart.report.tables import MOST_LAYERS, Table, all_runs, choices, layers

WIKI = "wiki, 8 × 64 tokens"


def rows(table: Table, variant: int = 0) -> list[dict[str, Any]]:
    """Return the rows by the heads of their columns."""
    heads = [column.label for column in table.columns]
    return [dict(zip(heads, row, strict=True)) for row in table.variants[variant]]


def test_choices_are_the_best_of_each_size_over_the_dense_model() -> None:
    runs = [dense_run(), folder_run("a", 0.5), folder_run("worse", 0.5), folder_run("b", 0.25)]
    runs[2].texts = {WIKI: perplexity(99.0)}
    found = rows(choices(runs, Measure("a/model", WIKI)))
    assert [(row["run"], row["perplexity"]) for row in found] == [("b", 80.0), ("a", 40.0), ("dense", 18.0)]
    assert [row["× dense"] for row in found] == pytest.approx([80 / 18, 40 / 18, 1], rel=1e-3)
    assert [row["decoding"] for row in found] == [1.5, 1.5, None]
    small = found[1]
    assert small["of dense"] == pytest.approx(small["size"] / 200_000, rel=1e-3)
    assert small["95 % from"] < 40 < small["to"]


def test_without_a_text_the_error_is_the_measure() -> None:
    found = rows(choices([folder_run()], Measure("a/model", None)))
    assert found[0]["error"] == pytest.approx(0.3)
    assert "95 % from" not in found[0]


def test_every_run_has_a_row_with_what_is_known() -> None:
    runs = [dense_run(), folder_run("a"), Run("bare", "svd", "a/model", 0.25)]
    dense, whole, bare = rows(all_runs(runs, measures(runs)))
    assert "model" not in dense  # all are of one
    assert [row["run"] for row in (dense, whole, bare)] == ["dense", "a", "bare"]
    assert (whole["asked"], whole["kept"], whole[f"perplexity, {WIKI}"]) == (0.5, 0.5, 40.0)
    assert whole["layer error"] == pytest.approx(0.1)
    assert whole["last block"] == pytest.approx(0.3)
    assert (whole["decoding"], whole["prefill"], whole["calibration"]) == (1.5, 2.0, 4096)
    assert (whole["time"], whole["memory"]) == (8.7, 10**9)
    assert {head for head, value in bare.items() if value is not None} == {"run", "recipe", "asked"}
    assert dense["last block"] is None


def test_columns_of_which_nothing_is_known_are_left_out() -> None:
    table = all_runs([Run("x", "svd", "m", 0.5), Run("y", "svd", "n", 0.5)], [])
    assert [column.label for column in table.columns] == ["run", "recipe", "model", "asked"]
    assert table.variants == [[["x", "svd", "m", 0.5], ["y", "svd", "n", 0.5]]]


def test_layers_have_what_was_recorded_of_them() -> None:
    found = layers([dense_run(), folder_run("a"), folder_run("b", 0.25)])
    assert found is not None
    table, left_out = found
    assert left_out == 0
    assert table.select is not None
    assert table.select.options == ["a", "b"]
    first, second, _, without_drift = rows(table)[:4]
    assert first == {
        "layer": "model.layers.0.self_attn.q_proj",
        "outputs": 64,
        "inputs": 64,
        "rank": 16,
        "bytes": 4096,
        "kept": 0.5,
        "error": 0.1,
        "stream error": 0.2,
        "cosine distance": 0.02,
    }
    assert (second["stream error"], second["cosine distance"]) == (0.3, 0.03)
    assert (without_drift["stream error"], without_drift["cosine distance"]) == (None, None)
    assert {row["rank"] for row in rows(table, 1)} == {8}


def test_what_sketches_lost_is_shown_where_there_are_any() -> None:
    plain, sketched = folder_run("a"), folder_run("b")
    assert sketched.report is not None
    first, second, *others = sketched.report.layers
    changed = [
        first.model_copy(update={"sketch": SketchRecord(loss=0.2, excess=0.003)}),
        second.model_copy(update={"sketch": SketchRecord(loss=0.1)}),
    ]
    sketched.report = sketched.report.model_copy(update={"layers": [*changed, *others]})
    found = layers([plain, sketched])
    assert found is not None
    assert [(row["truncated"], row["beyond exact"]) for row in rows(found[0], 1)[:3]] == [
        (0.2, 0.003),
        (0.1, None),
        (None, None),
    ]
    assert {(row["truncated"], row["beyond exact"]) for row in rows(found[0])} == {(None, None)}
    assert [row["solver"] for row in rows(all_runs([plain, sketched], []))] == [None, 0.003]
    assert "solver" not in [column.label for column in all_runs([plain], []).columns]


def test_runs_that_would_make_the_page_large_are_left_out_but_never_all() -> None:
    large = folder_run("large")
    assert large.report is not None
    many = [large.report.layers[0]] * (MOST_LAYERS + 1)
    large.report = large.report.model_copy(update={"layers": many})
    for runs, shown in (([large, folder_run("a")], ["large"]), ([folder_run("a"), large, folder_run("b")], ["a"])):
        found = layers(runs)
        assert found is not None
        assert found[0].select is not None
        assert found[0].select.options == shown
        assert found[1] == len(runs) - len(shown)


def test_without_reports_there_is_no_table_of_layers() -> None:
    assert layers([dense_run(), Run("x", "svd", "m", 0.5)]) is None


def test_a_table_is_plain_data() -> None:
    data = all_runs([folder_run()], []).data()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["columns"][0] == {"label": "run", "kind": "text", "title": ""}
