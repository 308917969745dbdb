"""``eckart eval`` on items of models of all kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli import helpers
from tests.cli.helpers import words
from tests.evaluate.test_reading import sample_of
from tests.tiny import NAMES, make, write_image, write_rows
from typer.testing import Result

from eckart.data.sampling import read_samples
from eckart.evaluate import measure_items


def run(*arguments: object) -> Result:
    return helpers.run("eval", *arguments)


def saved(name: str, folder: Path, seed: int = 0) -> Path:
    model, processor = make(name, seed)
    model.save_pretrained(folder / f"{name}-{seed}")
    processor.save_pretrained(folder / f"{name}-{seed}")
    return folder / f"{name}-{seed}"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for i in range(6):
        write_image(tmp_path / "images" / NAMES[i % 3] / f"{i}.png", seed=i)
    return tmp_path / "images"


def test_a_classifier_beside_another_one(tmp_path: Path, images: Path) -> None:
    model, baseline = saved("vit", tmp_path), saved("vit", tmp_path, 1)
    result = run(model, "--baseline", baseline, "--data", images, "--samples", 6, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["texts"] == []
    row = facts["items"][0]
    assert row["source"] == str(images)
    # The same from Python.
    loaded, processor = make("vit")
    samples = read_samples(str(images), processor, loaded, 6, 0)
    expected = measure_items(loaded, samples, baseline=make("vit", 1)[0])
    assert [score["measure"] for score in row["scores"]] == [score.measure for score in expected]
    for found, score in zip(row["scores"], expected, strict=True):
        assert found["value"] == pytest.approx(score.value, rel=1e-5)
    table = run(model, "--baseline", baseline, "--data", images, "--samples", 6)
    assert all(text in table.stdout for text in ("6 items", "accuracy", "divergence (nats)", "same top choice"))


def test_questions_about_images(tmp_path: Path, images: Path) -> None:
    model = saved("llava", tmp_path)
    result = run(model, "--data", images, "--question", "What is it?", "--samples", 2)
    assert result.exit_code == 0, result.output
    assert all(text in result.stdout for text in ("answer tokens of 2 items", "perplexity", "nats a token", "accuracy"))
    result = run(model, "--data", images, "--options", "circle,square,tri_angle", "--samples", 2, "--json")
    score = json.loads(result.stdout)["items"][0]["scores"][0]
    assert (score["measure"], score["items"]) == ("accuracy (options)", 2)


def test_vectors_of_texts(tmp_path: Path) -> None:
    model, baseline = saved("bert", tmp_path), saved("bert", tmp_path, 1)
    rows = [{"text1": "a" * i, "text2": "b" * i**2, "score": i % 3} for i in range(1, 6)]
    pairs = write_rows(tmp_path / "pairs.jsonl", rows)
    texts = write_rows(tmp_path / "texts.jsonl", [{"text": "a text"}, {"text": "another"}])
    options = ["--pairs", pairs, "--data", texts, "--samples", 2, "--measure", "similarity", "--pooling", "first"]
    result = run(model, "--baseline", baseline, *options, "--json")
    assert result.exit_code == 0, result.output
    found = [(row["source"], [s["measure"] for s in row["scores"]]) for row in json.loads(result.stdout)["items"]]
    assert found == [(str(texts), ["cosine"]), (str(pairs), ["rank correlation"])]


def test_conversations(tmp_path: Path) -> None:
    model = saved("llama", tmp_path)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    chats = write_rows(tmp_path / "chats.jsonl", [{"messages": turns}] * 2)
    result = run(model, "--data", chats, "--chat", "--samples", 2, "--json")
    assert json.loads(result.stdout)["items"][0]["scores"][0]["of"] == "4 answer tokens of 2 items"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("bert-masked", ["--text", "python-docs"], "kind 'masked', which does not predict the next token"),
        ("t5", ["--prompt", "a"], "kind 'seq2seq', which does not predict the next token"),
        ("bert", ["--data", "python-docs"], "give the dense one with --baseline"),
        ("vit", ["--data", "python-docs"], "ViTForImageClassification reads images, and 'python-docs' is text"),
        ("vit", [], "Nothing to measure: give --text FILE, --data SOURCE"),
        ("vit", ["--pairs", "x.tsv", "--measure", "accuracy"], "belong to --data, which is not given"),
        ("llama", ["--data", "python-docs", "--measure", "luck"], "No measure is called 'luck'"),
    ],
)
def test_what_cannot_be_measured(name: str, arguments: list[Any], message: str, tmp_path: Path) -> None:
    result = run(saved(name, tmp_path), *arguments)
    assert result.exit_code == 2
    assert message in words(result.stderr)


def test_a_processor_that_is_missing(tmp_path: Path, images: Path) -> None:
    model = saved("vit", tmp_path)
    (model / "preprocessor_config.json").unlink()
    result = run(model, "--data", images)
    assert result.exit_code == 2
    assert "folder lacks preprocessor_config.json or tokenizer.json" in words(result.stderr)


def test_the_helper_makes_what_every_kind_reads(tmp_path: Path) -> None:
    assert "labels" in sample_of("vit", tmp_path)
