"""Zero-shot tasks, through lm-evaluation-harness: what it finds, with intervals and beside a baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from eckart.errors import EckartError
from eckart.evaluate.harness import Tasks, harness_model, load_tasks, run_task
from eckart.evaluate.scores import Measured
from eckart.evaluate.windows import mean_and_error

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

AVERAGED = "acc"  # the metric that papers on compression average over tasks, where acc_norm exists too


class Score(Measured):
    """One metric of one task or group of tasks.

    Attributes:
        task: its name in the harness.
        metric: its name there, such as ``acc`` or ``acc_norm``.
        filter: what was done to answers before they were scored; ``none`` for most tasks.
        documents: how many were asked.
        few_shot: examples in front of each; None if they differ within a group.
        version: of the task's definition.
        group: the group whose score of this metric has this one in it, or None.
    """

    task: str
    metric: str
    filter: str
    documents: int
    few_shot: int | None
    version: str
    group: str | None


class Average(Measured):
    """The mean over those tasks and groups that were asked for and have the metric, each counted once.

    Attributes:
        metric: which one.
        tasks: how many.
    """

    metric: str
    tasks: int


class ZeroShot(BaseModel):
    """What was measured on tasks.

    Attributes:
        scores: in the order of the request; a group before its members.
        average: of ``acc``; None if no task has it.
        harness: the version of lm-evaluation-harness.
        limit: the first documents of each task that were taken; None for all.
        batch_size: requests at once.
    """

    scores: list[Score]
    average: Average | None
    harness: str
    limit: int | None
    batch_size: int


def zero_shot(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Tasks | Sequence[str],
    *,
    baseline: PreTrainedModel | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    on_request: Callable[[str, int, int], None] = lambda task, done, total: None,
) -> ZeroShot:
    """Run tasks of lm-evaluation-harness as its own command does, one after another, without a chat template.

    Args:
        model: a causal language model.
        tokenizer: of both models.
        tasks: names, or what :func:`load_tasks` returned (for local definitions and examples in the prompt).
        baseline: the model to compare with, on the same documents.
        limit: take the first documents of each task only.
        batch_size: requests at once.
        on_request: is called with (task, done, total) after each request to a model.

    Raises:
        EckartError: the harness is not installed, a task is unknown or cannot be loaded or run, the limit or the batch
            size is below 1, the tokenizer has no token to begin with, or the model gives NaN.
    """
    for name, number in (("limit", limit), ("batch size", batch_size)):
        if number is not None and number < 1:
            raise EckartError(f"The {name} is 1 or more; found {number}.")
    tasks = tasks if isinstance(tasks, Tasks) else load_tasks(tasks)
    ours = harness_model(model, tokenizer, batch_size)
    theirs = None if baseline is None else harness_model(baseline, tokenizer, batch_size)
    scores: list[Score] = []
    for name in tasks.loaded:

        def count(done: int, total: int, name: str = name) -> None:
            on_request(name, done, total)

        found = run_task(ours, tasks, name, limit=limit, on_request=count)
        other = None if theirs is None else run_task(theirs, tasks, name, limit=limit, on_request=count)
        scores.extend(_scores(found, other))
    return ZeroShot(scores=scores, average=_average(scores), harness=tasks.version, limit=limit, batch_size=batch_size)


def _scores(found: dict[str, Any], other: dict[str, Any] | None) -> Iterator[Score]:
    """Yield the scores in what the harness found for one name; a group comes before its members."""
    members: dict[str, list[str]] = found["group_subtasks"]
    inner = {child for children in members.values() for child in children}

    def walk(name: str, groups: tuple[str, ...]) -> Iterator[Score]:
        result = found["results"][name]
        for key, value in result.items():
            metric, comma, kind = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, Real):
                continue
            yield Score(
                **_measured(found, other, name, key).model_dump(),
                task=name,
                metric=metric,
                filter=kind,
                documents=result["sample_len"],
                few_shot=found["n-shot"].get(name),
                version=str(found["versions"][name]),
                group=next((group for group in groups if key in found["results"][group]), None),
            )
        for child in members.get(name, []):
            yield from walk(child, (name, *groups))

    for name in dict.fromkeys([*members, *found["results"]]):
        if name not in inner:
            yield from walk(name, ())


def _measured(found: dict[str, Any], other: dict[str, Any] | None, name: str, key: str) -> Measured:
    value, error = _value(found, name, key)
    if other is None:
        return Measured(value=value, error=error)
    baseline, baseline_error = _value(other, name, key)
    ours, theirs = _documents(found, name, key), _documents(other, name, key)
    paired = None
    if ours.keys() == theirs.keys() and _is_mean(ours, value) and _is_mean(theirs, baseline):
        paired = mean_and_error([ours[document] - theirs[document] for document in ours])[1]
    return Measured(
        value=value,
        error=error,
        baseline=baseline,
        baseline_error=baseline_error,
        difference=value - baseline,
        difference_error=paired,
    )


def _value(found: dict[str, Any], name: str, key: str) -> tuple[float, float | None]:
    metric, _, kind = key.partition(",")
    error = found["results"][name].get(f"{metric}_stderr,{kind}")
    # "N/A" where there is none, and NaN where resampling gave nothing.
    known = isinstance(error, Real) and not math.isnan(error)
    return float(found["results"][name][key]), float(error) if known else None


def _documents(found: dict[str, Any], name: str, key: str) -> dict[tuple[str, int], float]:
    """Return the metric of each document of a task, or of all tasks in a group, by task and number."""
    metric, _, kind = key.partition(",")
    values = {}
    for task in _leaves(found, name):
        for sample in found["samples"].get(task, []):
            if sample["filter"] == kind and isinstance(sample.get(metric), Real):
                values[task, sample["doc_id"]] = float(sample[metric])
    return values


def _leaves(found: dict[str, Any], name: str) -> list[str]:
    children = found["group_subtasks"].get(name)
    return [name] if children is None else [leaf for child in children for leaf in _leaves(found, child)]


def _is_mean(documents: dict[tuple[str, int], float], value: float) -> bool:
    return bool(documents) and math.isclose(
        math.fsum(documents.values()) / len(documents), value, rel_tol=1e-9, abs_tol=1e-12
    )


def _average(scores: Sequence[Score]) -> Average | None:
    # By task: the metric may be there more than once, after different filters.
    chosen = [*{s.task: s for s in reversed(scores) if s.metric == AVERAGED and s.group is None}.values()]
    if not chosen:
        return None

    def mean(field: str) -> float | None:
        values = [getattr(score, field) for score in chosen]
        return None if None in values else math.fsum(values) / len(values)

    def error(field: str) -> float | None:
        # The tasks share no documents, so their errors are independent.
        values = [getattr(score, field) for score in chosen]
        return None if None in values else math.hypot(*values) / len(values)

    return Average(
        value=math.fsum(score.value for score in chosen) / len(chosen),
        error=error("error"),
        baseline=mean("baseline"),
        baseline_error=error("baseline_error"),
        difference=mean("difference"),
        difference_error=error("difference_error"),
        metric=AVERAGED,
        tasks=len(chosen),
    )
