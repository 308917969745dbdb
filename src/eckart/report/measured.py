"""What `eckart eval --json` and `eckart bench --json` print, and the run that each of them is of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from eckart.evaluate import Perplexity
from eckart.evaluate.speed.compare import Speed
from eckart.report.caches import cache_label
from eckart.report.runs import DENSE, Run, Sample, text_label
from eckart.sweep.row import SpeedResult


class MeasuredText(Perplexity):
    """A text, and the perplexity of the model and of its baseline on it."""

    text: str
    baseline: Perplexity | None = None


class MeasuredSample(BaseModel):
    """A prompt, and how the model and its baseline go on."""

    prompt: str
    text: str
    baseline: str | None = None


class Evaluation(BaseModel):
    """Of one model."""

    model: str
    baseline: str | None = None
    texts: list[MeasuredText]
    samples: list[MeasuredSample] = []

    @property
    def names(self) -> str:
        """The model's."""
        return self.model


class Bench(BaseModel):
    """Of several models, all beside the first."""

    speeds: list[Speed]

    @property
    def names(self) -> str:
        """Of all models."""
        return ", ".join(dict.fromkeys(speed.model for speed in self.speeds)) or "no model"


def join(runs: list[Run], measurement: Evaluation | Bench) -> bool:
    """Add a measurement to the runs that it is of; return whether there is one.

    A run is found by its folder, or by its folder's name if only one has it. A baseline becomes a dense run.
    """
    return (
        _join_evaluation(runs, measurement) if isinstance(measurement, Evaluation) else _join_bench(runs, measurement)
    )


def _join_evaluation(runs: list[Run], evaluation: Evaluation) -> bool:
    run = _find(runs, evaluation.model)
    if run is None:
        # Of the model that others were made of.
        made_of_it = [
            other for other in runs if other.model == Path(evaluation.model).name or other.model == evaluation.model
        ]
        if not made_of_it:
            return False
        run = _dense(runs, made_of_it[0])
    for row in evaluation.texts:
        found = Perplexity.model_validate(row.model_dump())
        if row.cache is None:
            run.texts[text_label(row.text, row)] = found
        else:
            run.caches.append((cache_label(row.text, row), found))
        if row.baseline is not None and not run.is_dense:
            _dense(runs, run).texts.setdefault(text_label(row.text, row.baseline), row.baseline)
    for sample in evaluation.samples:
        run.samples.append(Sample(sample.prompt, sample.text))
        if sample.baseline is not None and not run.is_dense:
            told = Sample(sample.prompt, sample.baseline)
            dense = _dense(runs, run)
            if told not in dense.samples:
                dense.samples.append(told)
    return True


def _join_bench(runs: list[Run], bench: Bench) -> bool:
    joined = False
    for run, speed, first in _pairs(runs, bench):
        run.speed = SpeedResult(
            prefill=speed.prefill.median,
            decode=speed.decode.median,
            dense_prefill=first.prefill.median,
            dense_decode=first.decode.median,
        )
        joined = True
    return joined


def _pairs(runs: list[Run], bench: Bench) -> Iterator[tuple[Run, Speed, Speed]]:
    """Yield each run with its speed and the first model's, at the smallest batch."""
    batch = min((speed.batch for speed in bench.speeds), default=1)
    speeds = [speed for speed in bench.speeds if speed.batch == batch]
    for speed in speeds[1:]:
        if (run := _find(runs, speed.model)) is not None:
            yield run, speed, speeds[0]


def _find(runs: list[Run], name: str) -> Run | None:
    folder = Path(name).resolve()
    folders = [run for run in runs if run.folder == folder]
    named = [run for run in runs if run.folder is not None and run.folder.name == folder.name]
    return folders[0] if folders else named[0] if len(named) == 1 else None


def _dense(runs: list[Run], run: Run) -> Run:
    """Return the dense model that a run was made of, as a run; new if there is none yet."""
    for other in runs:
        if other.is_dense and other.model == run.model:
            return other
    dense = Run(DENSE, DENSE, run.model, keep=1.0, kept=1.0, bytes=run.dense_bytes, dense_bytes=run.dense_bytes)
    runs.append(dense)
    return dense
