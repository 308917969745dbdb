"""The table of ``eckart eval``: intervals against the normal distribution of Python's own library."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import pytest
from tests.cli.helpers import rows_of

from eckart.cli.evaluation_table import evaluation_table
from eckart.evaluate.scores import score_of
from eckart.evaluate.tasks import Average, Score, ZeroShot

LOSS, ERROR = math.log(20.0), 0.05
TEXT: dict[str, Any] = {"text": "t.txt", "windows": 8, "length": 64, "perplexity": 20.0}
TEXT |= {"log_perplexity": LOSS, "error": ERROR}
BASELINE = {"perplexity": 16.0, "log_perplexity": math.log(16.0)}
AGREEMENT = {"divergence": 0.25, "divergence_error": 0.01, "top_1": 0.75, "top_1_error": 0.02}


def ends(value: float, error: float) -> tuple[float, float]:
    """Return the middle 95 % of a normal distribution."""
    normal = NormalDist(value, error)
    return normal.inv_cdf(0.025), normal.inv_cdf(0.975)


def numbers(cell: str) -> tuple[float, ...]:
    return tuple(float(word.rstrip("%")) for word in cell.split(" and "))


def test_a_text_alone() -> None:
    perplexity, nats = rows_of(evaluation_table([TEXT], None, compared=False))
    assert perplexity[:4] == ["t.txt", "8 x 64", "perplexity", "20.000"]
    assert numbers(perplexity[4]) == pytest.approx([math.exp(end) for end in ends(LOSS, ERROR)], abs=2e-3)
    assert nats[2:4] == ["nats a token", f"{LOSS:.4f}"]
    assert numbers(nats[4]) == pytest.approx(ends(LOSS, ERROR), abs=1e-4)


def test_one_window_has_no_interval() -> None:
    perplexity, nats = rows_of(evaluation_table([TEXT | {"error": None, "windows": 1}], None, compared=False))
    assert (perplexity[4], nats[4]) == ("one window", "")


def test_a_text_beside_a_baseline() -> None:
    row = TEXT | {"baseline": BASELINE, "agreement": AGREEMENT}
    table = evaluation_table([row], None, compared=True)
    perplexity, nats, divergence, top = rows_of(table)
    assert [column.header for column in table.columns[-2:]] == ["baseline", "difference"]
    assert perplexity[5:] == ["16.000", ""]
    assert float(nats[6]) == pytest.approx(math.log(20 / 16), abs=1e-4)
    assert nats[6].startswith("+")
    assert divergence[2:4] == ["divergence (nats)", "0.2500"]
    assert numbers(divergence[4]) == pytest.approx(ends(0.25, 0.01), abs=1e-4)
    assert top[2:4] == ["same top token", "75.0%"]
    assert numbers(top[4]) == pytest.approx([100 * end for end in ends(0.75, 0.02)], abs=0.05)


def score(task: str, **others: Any) -> Score:
    values: dict[str, Any] = {"metric": "acc", "filter": "none", "documents": 10, "few_shot": 0, "version": "1"}
    return Score(**{**values, "task": task, "group": None, "value": 0.5, "error": 0.1, **others})


def test_tasks_groups_and_their_average() -> None:
    scores = [
        score("all", baseline=0.75, difference=-0.25, difference_error=0.05),
        score("part", group="all", few_shot=3, filter="strict", error=None, baseline=0.5, difference=0.0),
    ]
    average = Average(value=0.5, error=0.1, metric="acc", tasks=2, baseline=0.25, difference=0.25)
    tasks = ZeroShot(scores=scores, average=average, harness="0", limit=None, batch_size=1)
    whole, part, mean = rows_of(evaluation_table([], tasks, compared=True))
    assert whole[:4] == ["all", "10 documents", "acc", "0.5000"]
    assert numbers(whole[4]) == pytest.approx(ends(0.5, 0.1), abs=1e-4)
    difference, margin = whole[6].split(" ± ")
    assert (whole[5], difference) == ("0.7500", "-0.2500")
    assert float(margin) == pytest.approx(ends(0, 0.05)[1], abs=1e-4)
    # A member of a group stands in from it; without an error there is no interval and no margin.
    assert part == ["  part", "10 documents, 3 shown first", "acc (strict)", "0.5000", "", "0.5000", "+0.0000"]
    assert mean[:4] == ["average", "2 tasks", "acc", "0.5000"]


def test_an_average_of_one_task_is_no_row() -> None:
    average = Average(value=0.5, error=0.1, metric="acc", tasks=1)
    tasks = ZeroShot(scores=[score("one")], average=average, harness="0", limit=None, batch_size=1)
    assert [row[0] for row in rows_of(evaluation_table([], tasks, compared=False))] == ["one"]


def test_items() -> None:
    loss = score_of("nats a token", [6.0, 3.0, 5.0], [2, 1, 2], "answer tokens", [4.0, 2.0, 4.0])
    right = score_of("accuracy", [1.0, 0.0, 1.0], [1, 1, 1], "items", [1.0, 1.0, 1.0])
    row = {"source": "images", "scores": [loss.model_dump(), right.model_dump()]}
    perplexity, nats, accuracy = rows_of(evaluation_table([], None, compared=True, items=[row]))
    assert perplexity[:4] == ["images", "5 answer tokens of 3 items", "perplexity", f"{math.exp(2.8):.3f}"]
    assert loss.error is not None
    assert numbers(perplexity[4]) == pytest.approx([math.exp(end) for end in ends(2.8, loss.error)], abs=2e-3)
    assert perplexity[5] == f"{math.exp(2.0):.3f}"
    assert nats[:4] == ["", "", "nats a token", "2.8000"]
    assert nats[6].startswith("+0.8000 ± ")
    assert accuracy[:4] == ["", "3 items", "accuracy", "0.6667"]
