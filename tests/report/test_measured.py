"""Measurements find the runs that they are of; how they are read is tested in tests/report/test_sources.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.report.helpers import dense_run, folder_run, perplexity

from eckart.evaluate.speed.compare import Speed, Spread
from eckart.report.measured import Bench, Evaluation, MeasuredSample, MeasuredText, join
from eckart.report.runs import Run, Sample

WIKI = "wiki.txt, 8 × 64 tokens"


def run_at(folder: Path) -> Run:
    run = folder_run(folder.name)
    run.folder, run.texts, run.speed, run.samples = folder, {}, None, []
    return run


def text(value: float, baseline: float | None = None) -> MeasuredText:
    beside = None if baseline is None else perplexity(baseline)
    return MeasuredText(text="data/wiki.txt", baseline=beside, **perplexity(value).model_dump())


def speed(model: str, decode: float, batch: int = 1) -> Speed:
    facts: dict[str, Any] = {"prompt": 8, "generate": 4, "weight_bytes": 1, "cache_bytes_per_token": 1.0}
    facts |= {"peak_bytes": None, "limit": "memory", "reached": 0.5, "first_token": Spread.of([1.0])}
    return Speed(model=model, batch=batch, prefill=Spread.of([10 * decode]), decode=Spread.of([decode]), **facts)


def test_a_text_and_a_prompt_go_to_the_run_and_to_its_dense_model(tmp_path: Path) -> None:
    runs = [run_at(tmp_path / "small")]
    sample = MeasuredSample(prompt="Once", text="upon", baseline="again")
    found = Evaluation(model=str(tmp_path / "small"), texts=[text(30.0, 20.0)], samples=[sample])
    for _ in range(2):  # what was handed over twice is there once
        assert join(runs, found)
    run, dense = runs
    assert (run.texts, dense.texts) == ({WIKI: perplexity(30.0)}, {WIKI: perplexity(20.0)})
    assert (dense.is_dense, dense.model, dense.keep) == (True, "a/model", 1.0)
    assert (dense.bytes, dense.dense_bytes) == (run.dense_bytes, run.dense_bytes)
    assert dense.samples == [Sample("Once", "again")]


def test_what_was_measured_of_the_dense_model_itself_stays(tmp_path: Path) -> None:
    runs = [run_at(tmp_path / "small"), dense_run()]
    runs[1].texts = {WIKI: perplexity(18.0)}
    assert join(runs, Evaluation(model=str(tmp_path / "small"), texts=[text(30.0, 20.0)]))
    assert len(runs) == 2
    assert runs[1].texts == {WIKI: perplexity(18.0)}


@pytest.mark.parametrize("name", ["model", "a/model", "somewhere/model"])
def test_the_model_that_a_run_was_made_of_is_the_dense_one(name: str, tmp_path: Path) -> None:
    runs = [run_at(tmp_path / "small")]
    runs[0].model = name if "/" not in name or name == "a/model" else "model"
    assert join(runs, Evaluation(model=name, texts=[text(20.0)]))
    assert runs[0].texts == {}
    assert runs[1].is_dense
    assert runs[1].texts == {WIKI: perplexity(20.0)}


def test_of_nobody(tmp_path: Path) -> None:
    runs = [run_at(tmp_path / "small")]
    assert not join(runs, Evaluation(model="another", texts=[text(20.0)]))
    assert not join(runs, Bench(speeds=[speed("dense", 2.0), speed("another", 3.0)]))
    assert not join(runs, Bench(speeds=[]))
    assert len(runs) == 1
    assert (runs[0].texts, runs[0].speed) == ({}, None)


def test_a_folder_comes_before_a_name_and_a_name_of_two_is_none(tmp_path: Path) -> None:
    runs = [run_at(tmp_path / place / "small") for place in ("a", "b")]
    assert join(runs, Evaluation(model=str(tmp_path / "b" / "small"), texts=[text(30.0)]))
    assert [bool(run.texts) for run in runs] == [False, True]
    assert not join(runs, Evaluation(model="elsewhere/small", texts=[text(30.0)]))


def test_speeds_are_those_at_the_smallest_batch_beside_the_first_model(tmp_path: Path) -> None:
    runs = [run_at(tmp_path / name) for name in ("small", "smaller")]
    names = [str(run.folder) for run in runs]
    speeds = [speed("dense", 9.0, batch=4), speed(names[0], 8.0, batch=4)]
    speeds += [speed("dense", 2.0), speed(names[0], 3.0), speed(names[1], 5.0)]
    assert join(runs, Bench(speeds=speeds))
    for run, decode in zip(runs, (3.0, 5.0), strict=True):
        assert run.speed is not None
        assert (run.speed.decode, run.speed.dense_decode) == (decode, 2.0)
        assert (run.speed.prefill, run.speed.dense_prefill) == (10 * decode, 20.0)


def test_what_a_measurement_is_of_in_words() -> None:
    assert Evaluation(model="small", texts=[]).names == "small"
    assert Bench(speeds=[speed("a", 1.0), speed("b", 1.0), speed("a", 1.0, batch=4)]).names == "a, b"
    assert Bench(speeds=[]).names == "no model"
