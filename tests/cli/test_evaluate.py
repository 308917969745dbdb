"""``eckart eval`` on texts and on tasks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tests.cli import helpers
from tests.cli.helpers import words
from tests.conftest import make_model
from tests.evaluate.helpers import with_an_end, write_task
from transformers import PreTrainedTokenizerFast
from typer.testing import Result

import eckart
from eckart.evaluate import load_tasks, zero_shot


def run(*arguments: object) -> Result:
    return helpers.run("eval", *arguments)


@pytest.fixture
def model(model_folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    with_an_end(tokenizer).save_pretrained(model_folder)
    return model_folder


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    lm_eval_tasks = pytest.importorskip("lm_eval.tasks")
    whole = lm_eval_tasks.TaskManager
    monkeypatch.setattr(lm_eval_tasks, "TaskManager", lambda **given: whole(**{**given, "include_defaults": False}))
    for name, seed in (("colours", 0), ("more", 1)):
        write_task(tmp_path / "tasks", name, seed=seed)
    return ["--tasks", "colours,more", "--task-path", tmp_path / "tasks"]


def test_a_compressed_model_beside_the_dense_one(
    model: Path, tasks: list[object], tokenizer: PreTrainedTokenizerFast, text_file: Path, tmp_path: Path
) -> None:
    small = eckart.load_model(model)
    eckart.save(small, eckart.compress(small, "svd", 0.5), tmp_path / "small", tokenizer=tokenizer)
    options = [*tasks, "--baseline", model, "--limit", 9, "--batch-size", 5, "--few-shot", 1]
    result = run(tmp_path / "small", *options, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["texts"] == []
    found = facts["tasks"]
    assert [(s["task"], s["metric"], s["documents"], s["few_shot"]) for s in found["scores"]] == [
        (task, metric, 9, 1) for task in ("colours", "more") for metric in ("acc", "acc_norm")
    ]
    assert (found["limit"], found["batch_size"]) == (9, 5)
    # The same from Python, on models that were not written to disk.
    loaded = load_tasks(["colours", "more"], path=tmp_path / "tasks", few_shot=1)
    same = zero_shot(small, tokenizer, loaded, baseline=make_model("llama"), limit=9, batch_size=5)
    assert same.model_dump() == found
    assert any(score["difference"] != 0 for score in found["scores"])

    shown = run(tmp_path / "small", *options, "--text", text_file, "--length", 32, "--windows", 2)
    assert shown.exit_code == 0, shown.output
    text = words(shown.stdout)
    first, average = found["scores"][0], found["average"]
    low, high = (first["value"] + sign * 1.96 * first["error"] for sign in (-1, 1))
    assert f"colours 9 documents, 1 shown first acc {first['value']:.4f} {low:.4f} and {high:.4f}" in text
    assert f"{first['baseline']:.4f} {first['difference']:+.4f} ± {1.96 * first['difference_error']:.4f}" in text
    assert f"average 2 tasks acc {average['value']:.4f}" in text
    assert "2 x 32 perplexity" in text
    assert "same top token" in text


def test_one_task_without_a_baseline(model: Path, tasks: list[object]) -> None:
    shown = run(model, "--tasks", "colours", *tasks[2:], "--limit", 3)
    assert shown.exit_code == 0, shown.output
    assert "colours 3 documents acc " in words(shown.stdout)
    assert not any(word in shown.stdout for word in ("average", "baseline", "±"))
    assert shown.stderr.strip() == ""


MISTAKES = [
    ([], "Nothing to measure: give --text FILE, --data SOURCE, --pairs FILE, --tasks NAME,NAME"),
    (["--limit", "3"], "Nothing to measure"),
    (["--text", "{tmp}/text.txt", "--limit", "3"], "belong to --tasks, which is not given"),
    (["--tasks", " , "], "No task was named"),
    (["--tasks", "colours", "--task-path", "{tmp}/nowhere"], "There is no folder"),
    (["--tasks", "colour", "--task-path", "{tmp}/tasks"], "did you mean 'colours'?"),
    (["--tasks", "colours", "--task-path", "{tmp}/tasks", "--limit", "0"], "Invalid value for '--limit'"),
    (["--tasks", "colours", "--task-path", "{tmp}/tasks", "--few-shot", "99"], "'colours' failed"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda value: " ".join(value)[:60])
@pytest.mark.usefixtures("tasks", "text_file")
def test_mistakes(arguments: list[str], message: str, model: Path, tmp_path: Path) -> None:
    result = run(model, *(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert message in words(result.stderr)
    assert "Traceback" not in result.output


def test_the_extra_is_missing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    result = run(model, "--tasks", "arc_easy")
    assert result.exit_code == 2
    assert "pip install 'eckart[eval]'" in words(result.stderr)


def test_eval_with_a_baseline_on_two_texts(compressed: Path, model_folder: Path, text_file: Path) -> None:
    texts = ["--text", text_file, "--text", f"{text_file}:raw"]
    options = [*texts, "--length", 32, "--windows", 3, "--baseline", model_folder]
    shown = run(compressed, *options)
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("3 x 32") == 2
    facts = json.loads(run(compressed, *options, "--json").stdout)
    assert [row["text"] for row in facts["texts"]] == [str(text_file), f"{text_file}:raw"]
    assert facts["texts"][0]["agreement"]["divergence"] > 0
    itself = json.loads(run(model_folder, *options, "--json").stdout)["texts"][0]
    assert itself["agreement"]["divergence"] == pytest.approx(0, abs=1e-6)
    assert itself["agreement"]["top_1"] == 1
    assert itself["baseline"]["perplexity"] == itself["perplexity"]


def test_windows_are_read_from_a_cache(factored: Path, model_folder: Path, text_file: Path) -> None:
    options = ["--text", text_file, "--length", 64, "--windows", 2, "--cache", "latent", "--piece", 16]
    whole = json.loads(run(factored, *options[:6], "--json").stdout)["texts"][0]
    row = json.loads(run(factored, *options, "--json").stdout)["texts"][0]
    assert (row["cache"], row["piece"]) == ("latent:16", 16)
    assert row["log_perplexity"] == pytest.approx(whole["log_perplexity"], rel=1e-4)
    assert row["cache_token_bytes"] < 384
    shown = run(factored, *options, "--baseline", model_folder)
    assert "cache latent:16 bytes a token" in words(shown.stdout)
    assert "divergence" not in shown.stdout  # of whole windows, where there is no cache
    refused = run(factored, "--prompt", "x", "--cache", "latent")
    assert "--cache belongs to --text" in words(refused.stderr)
    refused = run(factored, "--text", text_file, "--piece", 4)
    assert "--piece belongs to --cache" in words(refused.stderr)
