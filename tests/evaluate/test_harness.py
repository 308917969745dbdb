from __future__ import annotations

import logging
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.evaluate.helpers import write_task
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from eckart.errors import EckartError, EckartWarning
from eckart.evaluate import load_tasks, zero_shot

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.usefixtures("quick")


def test_nothing_is_printed_and_all_is_as_before(
    llama: PreTrainedModel, byte_tokenizer: PreTrainedTokenizerFast, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("lm_eval")

    def state() -> list[Any]:
        numbers = np.random.get_state(legacy=False)["state"]["key"].tolist()
        return [random.getstate(), numbers, torch.random.get_rng_state().tolist(), dict(os.environ), logger.handlers]

    write_task(
        folder, "f1", metric_list=[{"metric": "f1"}], doc_to_choice=["yes", "no"], doc_to_target="{{answer % 2}}"
    )
    load_tasks(["colours"], path=folder)  # what importing sets is not ours
    before = state()
    capfd.readouterr()
    zero_shot(llama, byte_tokenizer, load_tasks(["colours", "f1"], path=folder), limit=3)
    assert state() == before
    assert capfd.readouterr() == ("", "")


def test_what_a_callback_prints_is_shown(
    llama: PreTrainedModel, byte_tokenizer: PreTrainedTokenizerFast, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = load_tasks(["colours"], path=folder)
    zero_shot(llama, byte_tokenizer, tasks, limit=1, on_request=lambda task, done, total: print(task, done))
    assert capsys.readouterr().out == "colours 1\ncolours 2\ncolours 3\n"


def test_local_tasks_ask_no_network(
    llama: PreTrainedModel, byte_tokenizer: PreTrainedTokenizerFast, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def refuse(*arguments: Any, **options: Any) -> None:
        asked.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    zero_shot(llama, byte_tokenizer, load_tasks(["colours"], path=folder), limit=1)
    assert asked == []


def test_what_the_harness_cuts_off_is_said(
    llama: PreTrainedModel, byte_tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    write_task(folder, "long", doc_to_text="{{question * 20}}")
    with pytest.warns(EckartWarning, match=r"'long': .*exceeds model's maximum length.* \(3 such warnings\)"):
        zero_shot(llama, byte_tokenizer, load_tasks(["long"], path=folder), limit=1)


def test_a_task_that_fixes_its_examples(folder: Path) -> None:
    write_task(folder, "none", num_fewshot=0)
    with pytest.warns(EckartWarning, match="'none' is always asked without examples"):
        load_tasks(["none"], path=folder, few_shot=2)


def test_a_tokenizer_without_ends(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    with pytest.raises(EckartError, match="neither a beginning-of-sequence nor an end-of-sequence token"):
        zero_shot(llama, tokenizer, load_tasks(["colours"], path=folder))


def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(EckartError, match=r"pip install 'eckart\[eval\]'"):
        load_tasks(["arc_easy"])


LOADING = [
    ({"dataset_path": "no-such/data", "dataset_kwargs": {}}, "'bad' cannot be loaded: .*--task-path takes a folder"),
    ({"dataset_kwargs": {"data_files": {"test": "nowhere.jsonl"}}}, "'bad' cannot be loaded: .*nowhere.jsonl"),
    ({"output_type": "guess"}, "'bad' cannot be loaded: .*Its definition is at fault"),
    ({"doc_to_texts": "x"}, "'bad' cannot be loaded: .*doc_to_texts.*Its definition is at fault"),
    ({"test_split": "exam"}, "'bad' cannot be loaded: .*exam"),
]


@pytest.mark.parametrize(("changes", "message"), LOADING, ids=lambda value: str(value)[:40])
def test_a_task_that_cannot_be_loaded(folder: Path, changes: dict[str, Any], message: str) -> None:
    write_task(folder, "bad", **changes)
    with pytest.raises(EckartError, match=f"(?s){message}"):
        load_tasks(["bad"], path=folder)


def test_a_task_that_fails(llama: PreTrainedModel, byte_tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    write_task(folder, "bad", doc_to_target="{{answer.index(question)}}")
    with pytest.raises(EckartError, match="'bad'"):
        zero_shot(llama, byte_tokenizer, load_tasks(["bad"], path=folder))


def test_more_examples_than_documents(
    llama: PreTrainedModel, byte_tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    with pytest.raises(EckartError, match="'colours' failed"):
        zero_shot(llama, byte_tokenizer, load_tasks(["colours"], path=folder, few_shot=99))


def test_names_and_numbers(folder: Path) -> None:
    with pytest.raises(EckartError, match="No task was named"):
        load_tasks([], path=folder)
    with pytest.raises(EckartError, match="0 or more; found -1"):
        load_tasks(["colours"], path=folder, few_shot=-1)
    with pytest.raises(EckartError, match="did you mean 'colours'"):
        load_tasks(["colors"], path=folder)


def test_a_group_of_the_harness_may_have_local_members(folder: Path) -> None:
    (folder / "tagged.yaml").write_text(yaml.safe_dump({"include": "colours.yaml", "task": "again", "tag": ["all"]}))
    assert list(load_tasks(["all"], path=folder).loaded["all"]["tasks"]) == ["again"]


def test_ids_that_the_embedding_lacks_are_named(
    llama: PreTrainedModel, byte_tokenizer: PreTrainedTokenizerFast, folder: Path, quick: None
) -> None:
    byte_tokenizer.add_tokens(["Question"])
    with pytest.raises(EckartError, match="Task 'colours' has the token id 256, and the model's embedding has"):
        zero_shot(llama, byte_tokenizer, load_tasks(["colours"], path=folder))
    assert not llama.get_input_embeddings()._forward_pre_hooks
