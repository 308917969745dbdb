"""Bars of time and memory."""

from __future__ import annotations

from typing import Any

import pytest
from tests.report.helpers import dense_run, folder_run

from eckart.compression.costs import Costs, Memory, Timings
from eckart.report.costs import PARTS, memory, times
from eckart.report.figure import Figure
from eckart.report.runs import Run


def traces(figure: Figure | None) -> dict[str, dict[str, Any]]:
    assert figure is not None
    (variant,) = figure.variants.values()
    return {trace["name"]: trace for trace in variant["traces"]}


def with_costs(run: Run, **costs: Any) -> Run:
    assert run.report is not None
    run.report = run.report.model_copy(update={"costs": Costs(**{"timings": Timings(), "memory": None, **costs})})
    return run


def test_the_parts_of_a_bar_add_up_to_the_time_of_the_run() -> None:
    run = folder_run()
    found = traces(times([run, dense_run()]))
    assert all(trace["y"] == ["one"] for trace in found.values())  # the dense model took none
    assert set(found) <= {*PARTS, "not told apart"}
    assert sum(trace["x"][0] for trace in found.values()) == pytest.approx(run.seconds, rel=0.02)


@pytest.mark.parametrize(("seconds", "rest"), [(8.7, None), (10.0, 1.4), (8.6, None)])
def test_what_is_left_over_is_shown_if_it_is_not_little(seconds: float, rest: float | None) -> None:
    run = folder_run()
    run.seconds = seconds
    found = traces(times([run]))
    assert found.get("not told apart", {"x": [None]})["x"][0] == (None if rest is None else pytest.approx(rest))


def test_a_run_without_a_report_has_one_part_and_what_it_shared() -> None:
    row = Run("row", "svd", "m", 0.5, seconds=3.0, shared_seconds=2.0)
    found = traces(times([row, folder_run()]))
    assert found["not told apart"]["x"] == [3.0, None]
    assert found["shared with other runs"]["x"] == [2.0, None]
    assert found["refinement"]["x"] == [None, 3.0]


def test_parts_that_no_run_has_are_left_out() -> None:
    run = with_costs(folder_run(), timings=Timings(statistics=2.0, files=1e-4, total=2.0))
    run.seconds = 2.0
    assert set(traces(times([run]))) == {"statistics"}
    assert times([dense_run(), Run("x", "svd", "m", 0.5)]) is None


def test_memory_is_shown_in_gigabytes_beside_what_was_expected() -> None:
    host = folder_run("host")
    both = with_costs(
        folder_run("both"),
        memory=Memory(host=3 * 10**9, expected_host=10**9, device=5 * 10**8, expected_device=10**9),
    )
    found = traces(memory([host, dense_run(), both]))
    assert {name: trace["x"] for name, trace in found.items()} == {
        "host": [1.0, 3.0],
        "host, expected": [2.0, 1.0],
        "accelerator": [None, 0.5],
        "accelerator, expected": [None, 1.0],
    }
    assert found["host"]["series"] == found["host, expected"]["series"] != found["accelerator"]["series"]
    assert (found["host"]["type"], found["host, expected"]["mode"]) == ("bar", "markers")


def test_without_an_accelerator_there_is_nothing_of_it() -> None:
    assert set(traces(memory([folder_run()]))) == {"host", "host, expected"}
    assert memory([with_costs(folder_run()), dense_run()]) is None


def test_names_are_no_markup() -> None:
    assert traces(memory([folder_run("<b>one</b>")]))["host"]["y"] == ["&lt;b&gt;one&lt;/b&gt;"]


def test_a_figure_is_higher_with_more_runs() -> None:
    few, many = (times([folder_run(str(n)) for n in range(count)]) for count in (1, 11))
    assert few is not None
    assert many is not None
    assert many.height - few.height == pytest.approx(10 * 26)
