"""Quality against bytes, speed and calibration."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.report.helpers import calibration, dense_run, folder_run, perplexity

from eckart.report.figure import Figure
from eckart.report.quality import (
    Measure,
    best_runs,
    front,
    measure_labels,
    measures,
    quality_against_bytes,
    quality_against_calibration,
    quality_against_speed,
    speed_up,
    tooltip,
)
from eckart.report.runs import Run


def test_the_front_takes_sizes_that_are_nearly_equal_as_equal() -> None:
    assert front([(1.0, 5.0), (1.001, 2.0), (2.0, 3.0), (3.0, 1.0)]) == [1, 3]
    assert front([(1.0, 5.0), (1.1, 2.0)]) == [0, 1]
    assert front([(1.0, 2.0), (1.001, 2.0)]) == [0]


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=25))
def test_the_front_is_that_of_the_definition(points: list[tuple[int, int]]) -> None:
    """Of whole sizes that are far apart: a point is on it if nothing that is no larger is better or as good."""
    found = front([(float(size), float(loss)) for size, loss in points])
    best = {
        (size, loss)
        for size, loss in points
        if not any((s <= size and m < loss) or (s < size and m <= loss) for s, m in points)
    }
    assert [points[index] for index in found] == sorted(best)


WIKI = "wiki, 8 × 64 tokens"


def row(name: str, keep: float, value: float, tokens: int | None = None, recipe: str = "svd") -> Run:
    """Return a run of a sweep."""
    run = Run(name, recipe, "a/model", keep, kept=keep, bytes=int(200_000 * keep), dense_bytes=200_000)
    run.texts = {WIKI: perplexity(value)}
    run.calibration = None if tokens is None else calibration(tokens)
    return run


def traces(figure: Figure | None, choice: str = "0.0") -> list[dict[str, Any]]:
    assert figure is not None
    found: list[dict[str, Any]] = figure.variants[choice]["traces"]
    return found


def test_measures_are_texts_by_how_many_were_measured_on_them_and_then_errors() -> None:
    runs = [row("a", 0.5, 30.0), row("b", 0.6, 25.0), folder_run()]
    runs[0].texts = {"rare": perplexity(3.0), **runs[0].texts}
    assert measures(runs) == [Measure("a/model", WIKI), Measure("a/model", "rare"), Measure("a/model", None)]
    assert measure_labels(measures(runs))[-1] == "error behind the last block, calibration tokens"
    assert measure_labels([Measure("a", "t"), Measure("b", "t")]) == ["a: perplexity, t", "b: perplexity, t"]
    assert measures([dense_run()]) == [Measure("a/model", WIKI)]


def test_a_measure_is_of_one_model_and_one_text() -> None:
    run = row("a", 0.5, 30.0)
    assert Measure("a/model", WIKI).of(run) == 30.0
    assert Measure("b/model", WIKI).of(run) is None
    assert Measure("a/model", "other").of(run) is None
    assert Measure("a/model", None).of(run) is None
    assert Measure("a/model", None).bounds(run) is None
    bounds = Measure("a/model", WIKI).bounds(run)
    assert bounds is not None
    assert bounds[0] < 30 < bounds[1]


def test_the_best_runs_leave_out_what_is_not_known() -> None:
    unknown = Run("x", "svd", "a/model", 0.5)
    runs = [dense_run(), row("large", 0.8, 19.0), row("worse", 0.8, 21.0), row("small", 0.4, 25.0), unknown]
    assert [run.name for run in best_runs(runs, Measure("a/model", WIKI))] == ["small", "large", "dense"]


def test_quality_against_bytes_has_a_front_a_line_a_recipe_and_a_star() -> None:
    runs = [dense_run(), row("b", 0.8, 19.0), row("a", 0.4, 25.0), row("c", 0.6, 40.0, recipe="asvd")]
    front_line, star, line, mark = traces(
        quality_against_bytes(runs, {"svd": 0, "asvd": 1}, [Measure("a/model", WIKI)])
    )
    assert (front_line["x"], front_line["y"]) == ([0.08, 0.16, 0.2], [25.0, 19.0, 18.0])
    assert (star["x"], star["marker"]["symbol"], star["mode"]) == ([0.2], "star", "markers")
    assert (line["x"], line["mode"], line["series"]) == ([0.08, 0.16], "lines+markers", 0)  # by size
    assert (mark["x"], mark["mode"], mark["series"]) == ([0.12], "markers", 1)
    low, high = line["error_y"]["arrayminus"][0], line["error_y"]["array"][0]
    assert (25 - low, 25 + high) == pytest.approx(Measure("a/model", WIKI).bounds(runs[2]), rel=1e-3)
    share = traces(quality_against_bytes(runs, {"svd": 0, "asvd": 1}, [Measure("a/model", WIKI)]), "0.1")
    assert share[2]["x"] == [40.0, 80.0]
    assert quality_against_bytes([Run("x", "svd", "a/model", 0.5)], {"svd": 0}, [Measure("a/model", WIKI)]) is None


def test_quality_against_speed_has_the_dense_model_at_one() -> None:
    figure = quality_against_speed([dense_run(), folder_run()], {"svd-llm": 0}, [Measure("a/model", WIKI)])
    run, dense = traces(figure)
    assert (run["x"], dense["x"]) == ([1.5], [1.0])
    assert traces(figure, "0.1")[0]["x"] == [2.0]
    assert quality_against_speed([dense_run(), row("a", 0.5, 3.0)], {"svd": 0}, [Measure("a/model", WIKI)]) is None
    assert speed_up(row("a", 0.5, 3.0)) is None


def test_quality_against_calibration_needs_two_numbers_of_tokens() -> None:
    series, found = {"svd": 0, "asvd": 1}, [Measure("a/model", WIKI)]
    alone = [row("a", 0.5, 30.0, 640), row("b", 0.6, 25.0, 1280), row("c", 0.5, 28.0, 1280, "asvd")]
    assert quality_against_calibration(alone, series, found) is None
    more = [*alone, row("d", 0.5, 27.0, 320), row("e", 0.6, 24.0, 2560)]
    at_half, at_more = traces(quality_against_calibration(more, series, found), "0")
    assert (at_half["x"], at_half["y"]) == ([320.0, 640.0], [27.0, 30.0])
    assert (at_more["x"], at_more["y"]) == ([1280.0, 2560.0], [25.0, 24.0])
    assert at_half["line"]["dash"] != at_more["line"]["dash"]


def test_a_tooltip_says_all_that_is_known() -> None:
    shown = tooltip(folder_run(), Measure("a/model", WIKI)).split("<br>")
    assert shown[0:2] == ["one", "recipe svd-llm"]
    assert shown[2].startswith("perplexity 40.00 (95 % between 39.")
    assert shown[3:] == [
        "0.2 MB, 83.6% of the dense model",
        "50.0% of the linear layers' bytes",
        "decoding × 1.50, prefill × 2.00",
        "4,096 calibration tokens",
    ]
    assert tooltip(Run("svd", "svd", "m", 0.5), Measure("m", "t")) == "svd<br>perplexity not known"
