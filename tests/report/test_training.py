"""Curves of trainings."""

from __future__ import annotations

from typing import Any

import pytest
from tests.report.helpers import dense_run, folder_run

from eckart.methods.preparation.record import PreparationRecord
from eckart.methods.refinement.record import RefinementRecord
from eckart.methods.training.record import EpochRecord
from eckart.report.figure import Figure
from eckart.report.runs import Run
from eckart.report.training import MOST_EPOCH_LINES, distillation, preparation, refinement


def refined(held_out: bool, blocks: int = 3) -> Run:
    """Return a run whose blocks were trained for two epochs each."""
    run = folder_run()
    assert run.report is not None
    records = [
        RefinementRecord(
            block=f"m.{block}",
            before=0.5 + block if held_out else None,
            after=0.25 + block if held_out else None,
            kept_epoch=2,
            epochs=[
                EpochRecord(training=0.75 + block, held_out=0.375 + block if held_out else None),
                EpochRecord(training=0.625 + block, held_out=0.25 + block if held_out else None),
            ],
        )
        for block in range(blocks)
    ]
    run.report = run.report.model_copy(update={"refinements": records})
    return run


def variant(figure: Figure, choice: str = "0") -> tuple[list[dict[str, Any]], dict[str, Any]]:
    found = figure.variants[choice]
    return found["traces"], found["layout"]


@pytest.mark.parametrize(
    ("held_out", "names", "ends", "curve"),
    [
        (True, ["before", "after"], [0.5, 0.25], ([0, 1, 2], [0.5, 0.375, 0.25])),
        (False, ["first epoch", "last epoch"], [0.75, 0.625], ([1, 2], [0.75, 0.625])),
    ],
)
def test_losses_are_those_that_were_measured(
    held_out: bool, names: list[str], ends: list[float], curve: tuple[list[int], list[float]]
) -> None:
    by_block, by_epoch = refinement([dense_run(), refined(held_out)])
    lines, layout = variant(by_block)
    assert [line["name"] for line in lines] == names
    assert [line["y"] for line in lines] == [[end + block for block in range(3)] for end in ends]
    assert ("held-out" in layout["yaxis"]["title"]["text"]) == held_out
    curves, _ = variant(by_epoch)
    assert (curves[0]["x"], curves[0]["y"]) == curve
    assert [one["depth"] for one in curves] == [0, 0.5, 1]


def test_blocks_without_an_epoch_are_gaps() -> None:
    run = refined(False, 2)
    assert run.report is not None
    run.report.refinements[0] = run.report.refinements[0].model_copy(update={"epochs": []})
    by_block, by_epoch = refinement([run])
    assert [line["y"] for line in variant(by_block)[0]] == [[None, 1.75], [None, 1.625]]
    assert variant(by_epoch)[0][0]["y"] == []


def test_of_many_blocks_some_are_drawn_both_ends_among_them() -> None:
    _, by_epoch = refinement([refined(True, 40)])
    curves, _ = variant(by_epoch)
    assert len(curves) == MOST_EPOCH_LINES
    assert (curves[0]["depth"], curves[-1]["depth"]) == (0, 1)
    assert curves[-1]["y"][0] == 39.5


def test_preparations_are_drawn_alike() -> None:
    run = refined(True)
    assert run.report is not None
    records = [PreparationRecord(**dict(record), tails={}) for record in run.report.refinements]
    run.report = run.report.model_copy(update={"refinements": [], "preparations": records})
    by_block, by_epoch = preparation([run, dense_run()])
    assert (by_block.id, by_epoch.id) == ("preparation-blocks", "preparation-epochs")
    for ours, other in zip((by_block, by_epoch), refinement([refined(True)]), strict=True):
        assert ours.variants == other.variants
    assert refinement([run]) == preparation([refined(True)]) == []


def test_each_refined_run_has_its_variant() -> None:
    by_block, by_epoch = refinement([refined(True), dense_run(), refined(False)])
    assert by_block.variants.keys() == by_epoch.variants.keys() == {"0", "1"}
    assert by_block.selects[0].options == ["one", "one"]
    assert refinement([dense_run(), Run("x", "svd", "m", 0.5)]) == []


def test_a_distillation_begins_before_its_first_epoch() -> None:
    plain = folder_run("<b>")
    assert plain.report is not None
    assert plain.report.distillation is not None
    record = plain.report.distillation.model_copy(update={"before": None, "after": None})
    plain.report = plain.report.model_copy(update={"distillation": record})
    figure = distillation([dense_run(), folder_run(), plain], {"svd-llm": 3})
    assert figure is not None
    held_out, training = figure.variants[""]["traces"]
    assert (held_out["x"], held_out["y"]) == ([0, 1, 2], [0.9, 0.5, 0.4])
    assert (training["x"], training["y"]) == ([1, 2], [0.6, 0.4])
    assert [trace["series"] for trace in (held_out, training)] == [3, 3]
    assert held_out["line"]["dash"] != training["line"]["dash"]
    assert training["hovertemplate"].startswith("&lt;b&gt;")
    assert distillation([dense_run()], {}) is None
