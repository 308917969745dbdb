"""lm-evaluation-harness from the inside: finds its tasks, runs them quietly, and turns failures into messages."""

from __future__ import annotations

import copy
import logging
import math
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy
import torch
from jinja2.sandbox import SandboxedEnvironment

from eckart.data.context import checked_ids
from eckart.errors import EckartError, warn
from eckart.evaluate.definitions import check_folder, check_names
from eckart.evaluate.trust import check_plain

if TYPE_CHECKING:
    from jinja2 import Environment
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# The seeds that the harness's own command sets: of Python, of numpy and torch, and of the examples in the prompt.
PYTHON_SEED, OTHER_SEED = 0, 1234
RESAMPLES = 1000  # for the errors of metrics that have no formula, such as F1: good to 3 %; the harness takes 100,000


@dataclass(frozen=True)
class Tasks:
    """Tasks whose definitions and data are loaded.

    Attributes:
        loaded: what each requested name stands for, as the harness holds it: tasks, and the groups that they form.
        version: the harness's.
    """

    loaded: dict[str, Any]
    version: str


def load_tasks(
    names: Sequence[str], *, path: Path | None = None, few_shot: int | None = None, trust_remote_code: bool = False
) -> Tasks:
    """Find tasks and load their data, which most of them download once.

    Args:
        names: tasks, groups or tags of lm-evaluation-harness.
        path: a folder of task definitions (YAML), which come before the harness's own of the same name.
        few_shot: examples in front of each question, where a task does not fix them; None for the task's own number,
            or 0 if it has none.
        trust_remote_code: whether Python code that definitions in ``path`` name may be run.

    Raises:
        EckartError: the harness is not installed, a name is unknown, a definition or its data cannot be read, or it
            names Python code that is not trusted.
    """
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise EckartError(f"Zero-shot tasks need an extra: pip install 'eckart[eval]'. ({error})") from error
    if not names:
        raise EckartError("No task was named. Name tasks of lm-evaluation-harness, such as arc_easy,piqa.")
    if few_shot is not None and few_shot < 0:
        raise EckartError(f"The number of examples in a prompt is 0 or more; found {few_shot}.")
    if path is not None:
        check_folder(path)
        if not trust_remote_code:
            check_plain(path)
    with _session():
        # The harness reads its 14,000 definitions in some seconds: not where local ones are all that is asked for.
        manager = None if path is None else TaskManager(include_path=path, include_defaults=False)
        if manager is None or not set(names) <= set(manager.all_subtasks):
            manager = TaskManager(include_path=path)
    check_names(names, manager.all_tasks, path)
    loaded = {}
    for name in dict.fromkeys(names):
        try:
            with _session():
                loaded[name] = manager.load([name])
        except Exception as error:  # what a definition names may raise anything
            raise EckartError(_cannot_load(name, error)) from error
        for task in loaded[name]["tasks"].values():
            _set_examples(task, few_shot)
    return Tasks(loaded, str(lm_eval.__version__))


def harness_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> Any:
    """Return ``model`` as the harness wants it.

    Raises:
        EckartError: the tokenizer has neither a token of the beginning nor one of the end.
    """
    from lm_eval.models.huggingface import HFLM

    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise EckartError(
            "The tokenizer has neither a beginning-of-sequence nor an end-of-sequence token, and lm-evaluation-harness "
            "needs one of them. Set tokenizer.eos_token."
        )
    with _session():
        # A copy: the harness gives the tokenizer a padding token.
        return HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), backend="causal", batch_size=batch_size)


def run_task(
    harnessed: Any, tasks: Tasks, name: str, *, limit: int | None, on_request: Callable[[int, int], None]
) -> dict[str, Any]:
    """Return what the harness found, with a record of each document under ``samples``.

    Args:
        harnessed: from :func:`harness_model`.
        tasks: from :func:`load_tasks`.
        name: one of those requested there.
        limit: take the first documents only.
        on_request: is called with (done, total) after each request to the model.

    Raises:
        EckartError: the task or the model failed, or a log-likelihood is NaN.
    """
    from lm_eval import evaluate

    loaded = tasks.loaded[name]
    for task in loaded["tasks"].values():
        task.set_fewshot_seed(seed=OTHER_SEED)  # draws the same examples each time
    harnessed.set_cache_hook(_Counter(loaded, on_request))
    with _session() as warned, checked_ids(harnessed.model, f"Task {name!r}"):
        try:
            found: dict[str, Any] = evaluate(
                lm=harnessed, task_dict=loaded, limit=limit, bootstrap_iters=RESAMPLES, log_samples=True
            )
        except EckartError:
            raise
        except Exception as error:
            raise EckartError(f"The task {name!r} failed: {type(error).__name__}: {error}") from error
    if warned:
        more = f" ({len(warned)} such warnings)" if len(warned) > 1 else ""
        warn(f"Task {name!r}: {warned[0]}{more}")
    for samples in found["samples"].values():
        if any(_is_nan(sample["resps"]) for sample in samples):
            raise EckartError(f"A log-likelihood in task {name!r} is NaN: the model gives no usable logits here.")
    return found


class _Counter:
    """Stands where the harness would keep answers for another time: it is told of each as it comes."""

    def __init__(self, loaded: dict[str, Any], on_request: Callable[[int, int], None]) -> None:
        self.loaded, self.on_request, self.done = loaded, on_request, 0
        self.streams = sys.stdout, sys.stderr

    def add_partial(self, kind: str, request: Any, answer: Any) -> None:
        self.done += 1
        total = sum(len(task.instances) for task in self.loaded["tasks"].values())
        with redirect_stdout(self.streams[0]), redirect_stderr(self.streams[1]):
            self.on_request(self.done, total)


@contextmanager
def _session() -> Iterator[list[str]]:
    """Hide what the harness prints, log its warnings into the list, and leave random numbers and settings as found."""
    import datasets
    import lm_eval.utils

    logger, warned = logging.getLogger("lm_eval"), _Warnings()
    handlers, propagate = logger.handlers, logger.propagate
    python, numbers = random.getstate(), numpy.random.get_state()
    logger.handlers, logger.propagate = [warned], False
    try:
        with (
            open(os.devnull, "w") as nowhere,
            redirect_stdout(nowhere),
            redirect_stderr(nowhere),
            torch.random.fork_rng(devices=[]),
            # Even for a local file, datasets tells a server that it was loaded.
            patch.object(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False),
            # Templates of a definition are text of strangers: they may fill in values, and reach nothing else.
            patch.object(lm_eval.utils, "env", _sandbox(lm_eval.utils.env)),
            # Resampling would fork this process, with the model in it, once for each core.
            patch.dict(os.environ, {"DISABLE_MULTIPROC": "1"}),
        ):
            random.seed(PYTHON_SEED)
            numpy.random.seed(OTHER_SEED)
            torch.manual_seed(OTHER_SEED)
            yield warned.messages
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        random.setstate(python)
        numpy.random.set_state(numbers)


def _sandbox(templates: Environment) -> Environment:
    """Return templates of the same meaning that reach no objects of Python behind their values."""
    found = SandboxedEnvironment(
        loader=templates.loader,
        undefined=templates.undefined,
        keep_trailing_newline=templates.keep_trailing_newline,
    )
    found.filters = templates.filters
    return found


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _set_examples(task: Any, few_shot: int | None) -> None:
    own = task.get_config("num_fewshot")
    if few_shot is None:
        task.set_config(key="num_fewshot", value=own or 0)
    elif own == 0 and few_shot > 0:
        warn(f"The task {task.task_name!r} is always asked without examples.")
    else:
        task.set_config(key="num_fewshot", value=few_shot)


def _cannot_load(name: str, error: Exception) -> str:
    advice = "Its definition is at fault, or a package that it needs is not installed."
    if isinstance(error, OSError):  # what fails on the network is one of these too
        advice = "Tasks download their data once; without a network, --task-path takes a folder of local definitions."
    return f"The task {name!r} cannot be loaded: {type(error).__name__}: {error}. {advice}"


def _is_nan(answers: Any) -> bool:
    if isinstance(answers, list | tuple):
        return any(_is_nan(answer) for answer in answers)
    return isinstance(answers, float) and math.isnan(answers)
