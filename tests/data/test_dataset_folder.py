from __future__ import annotations

import json
from pathlib import Path

import pytest

from eckart.data.text import read_text
from eckart.errors import CalibrationError

pytest.importorskip("datasets")


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name in ("corpus", "secret"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text(json.dumps({"text": name}))
    return tmp_path / "corpus"


def card(folder: Path, location: str, name: str = "README.md") -> None:
    text = f"configs:\n- config_name: default\n  {location}\n"
    (folder / name).write_text(f"---\n{text}---\n# Corpus\n" if name == "README.md" else text)


@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize(
    "location",
    [
        "data_files: ../secret/train.jsonl",
        "data_files: {secret}/train.jsonl",
        "data_files: [train.jsonl, 'file://{secret}/train.jsonl']",
        "data_files: 'file:{secret}/train.jsonl'",
        "data_files: [{{split: train, path: [train.jsonl, ../secret/*.jsonl]}}]",
        "data_files: [{{split: train, path: https://example.org/x.jsonl}}]",
        "data_dir: ../secret",
        '"data\\x5ffiles": "\\x2e./secret/train.jsonl"',
    ],
)
def test_files_outside_are_not_read(location: str, name: str, corpus: Path) -> None:
    card(corpus, location.format(secret=corpus.parent / "secret"), name)
    with pytest.raises(CalibrationError, match=r"names the data '.*', which is outside its folder"):
        read_text(f"dataset:{corpus}:train")


@pytest.mark.parametrize("what", ["train.jsonl", "."])
def test_links_that_leave_the_folder(what: str, corpus: Path) -> None:
    (corpus / "more").symlink_to(corpus.parent / "secret" / what)
    with pytest.raises(CalibrationError, match="more is outside the folder"):
        read_text(f"dataset:{corpus}:train")


@pytest.mark.parametrize("text", ["---\nconfigs: [\n---\n", "---\nconfigs: &a [*a]\n---\n"])
def test_a_card_that_cannot_be_read(text: str, corpus: Path) -> None:
    (corpus / "README.md").write_text(text)
    with pytest.raises(CalibrationError, match=r"README\.md cannot be read"):
        read_text(f"dataset:{corpus}:train")


def test_files_and_links_inside_are_read(corpus: Path) -> None:
    (corpus / "data").mkdir()
    (corpus / "train.jsonl").rename(corpus / "data" / "a..b.jsonl")
    (corpus / "link").symlink_to(corpus / "data")
    (corpus / "nothing").symlink_to(corpus / "gone")
    card(corpus, "data_files: [{split: train, path: data/*.jsonl}]")
    assert read_text(f"dataset:{corpus}:train") == "corpus"
    (corpus / "README.md").write_text("# No metadata\n")
    assert read_text(f"dataset:{corpus}:train") == "corpus"
