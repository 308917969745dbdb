from __future__ import annotations

from pathlib import Path

import pytest
from tests.evaluate.helpers import with_an_end, write_task
from transformers import PreTrainedTokenizerFast


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the seconds in which the harness reads its own definitions, and those in which it resamples."""
    import lm_eval.tasks

    monkeypatch.setattr("eckart.evaluate.harness.RESAMPLES", 20)
    whole = lm_eval.tasks.TaskManager
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", lambda **given: whole(**{**given, "include_defaults": False}))


@pytest.fixture
def byte_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return with_an_end(tokenizer)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_task(tmp_path / "tasks")
    return tmp_path / "tasks"
