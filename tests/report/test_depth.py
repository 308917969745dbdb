"""Lines of errors from block to block."""

from __future__ import annotations

from typing import Any

import pytest
from tests.report.helpers import dense_run, folder_run

from eckart.compression.drift import BlockDrift, DriftError
from eckart.methods.recipes.published import RECIPES
from eckart.report.depth import errors_by_depth, first_layer, last_layer
from eckart.report.figure import Figure
from eckart.report.runs import Run

SERIES = {"svd-llm": 0, "saes-svd": 1}


def figures(*runs: Run) -> dict[str, Figure]:
    return {figure.id: figure for figure in errors_by_depth(runs, SERIES)}


def values(figure: Figure, choice: str = "0.0") -> list[Any]:
    return [trace["y"] for trace in figure.variants[choice]["traces"]]


def with_blocks(run: Run, *blocks: BlockDrift) -> Run:
    assert run.report is not None
    run.report = run.report.model_copy(update={"blocks": list(blocks)})
    return run


def test_each_panel_shows_its_outputs_in_both_measures() -> None:
    found = figures(folder_run(), dense_run())
    assert values(found["depth-first"]) == [[0.2] * 4]
    assert values(found["depth-first"], "1.0") == [[0.02] * 4]
    assert values(found["depth-last"]) == [[0.3, None, 0.3, 0.3]]
    assert values(found["depth-block"]) == [[pytest.approx(0.1 * block) for block in range(4)]]
    assert values(found["depth-block"], "1.0") == [[pytest.approx(0.01 * block) for block in range(4)]]
    assert found["depth-first"].variants["0.0"]["layout"]["title"]["text"] == "Outputs of q_proj"
    assert found["depth-last"].variants["0.0"]["layout"]["title"]["text"] == "Outputs of down_proj"


def test_runs_of_one_size_are_compared_the_largest_size_first() -> None:
    runs = [folder_run("a", 0.25), folder_run("b", 0.5), folder_run("c", 0.5, RECIPES["saes-svd"])]
    figure = figures(*runs)["depth-block"]
    assert figure.selects[1].options == ["keep 0.5", "keep 0.25"]
    assert [len(values(figure, f"0.{place}")) for place in range(2)] == [2, 1]
    assert [trace["series"] for trace in figure.variants["0.0"]["traces"]] == [0, 1]


def test_models_are_named_where_there_are_several() -> None:
    other = folder_run("b", 0.5)
    other.model = "b/model"
    assert figures(folder_run("a", 0.5), other)["depth-block"].selects[1].options == [
        "a/model, keep 0.5",
        "b/model, keep 0.5",
    ]


def test_two_runs_of_one_recipe_have_different_lines() -> None:
    traces = figures(folder_run("a"), folder_run("b"))["depth-block"].variants["0.0"]["traces"]
    assert [trace["line"]["dash"] for trace in traces] == ["solid", "dash"]
    assert len({trace["marker"]["symbol"] for trace in traces}) == 1


def test_a_fused_layer_is_called_by_what_it_stands_for() -> None:
    error = DriftError(relative=0.5, cosine=0.25)
    joint = BlockDrift(path="m.0", output=error, layers={"m.0.attn.q_proj.joint": error, "m.0.mlp.down": error})
    found = figures(with_blocks(folder_run(), joint))
    assert found["depth-first"].variants["0.0"]["layout"]["title"]["text"] == "Outputs of q_proj.joint"


def test_a_block_without_layers_has_no_first_and_no_last() -> None:
    empty = BlockDrift(path="m.0", output=None, layers={})
    assert (first_layer(empty), last_layer(empty)) == (None, None)
    found = figures(with_blocks(folder_run(), empty))
    assert values(found["depth-first"]) == values(found["depth-block"]) == [[None]]
    assert "the linear layers" in found["depth-first"].alt


def test_without_records_there_is_no_figure() -> None:
    assert figures() == figures(dense_run()) == figures(with_blocks(folder_run())) == {}
