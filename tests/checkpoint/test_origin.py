"""What is taken over of the original model's card and licences."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tests.conftest import make_model

import eckart
from eckart.checkpoint.origin import copy_licences, front_matter

CARD = """---
license: other
license_name: a-licence
license_link: https://example.org/licence
language: [en, fr]
pipeline_tag: text-generation
datasets: [me/texts, "../../etc"]
tags: [unsafe, other]
base_model: an/older-one
model-index: 3
---
# A model
"""
TAGS = ["eckart", "low-rank", "compressed"]


@pytest.fixture
def original(tmp_path: Path) -> Path:
    folder = tmp_path / "original"
    make_model("llama").save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    (folder / "LICENSE.txt").write_text("a licence")
    (folder / "NOTICE").write_text("a notice")
    return folder


def test_fields_of_the_card(original: Path) -> None:
    assert yaml.safe_load(front_matter(original, "org/model", "stream:org/more:train")) == {
        "library_name": "transformers",
        "tags": TAGS,
        "license": "other",
        "license_name": "a-licence",
        "license_link": "https://example.org/licence",
        "language": ["en", "fr"],
        "pipeline_tag": "text-generation",
        "datasets": ["me/texts", "org/more"],
        "base_model": "org/model",
        "base_model_relation": "quantized",
    }


@pytest.mark.parametrize(
    "card",
    [
        None,
        "",
        "no front matter",
        "---\n: [\n---\n",
        "---\n- a list\n---\n",
        "---\nlicense: [1, {}]\nlanguage: a b\n---\n",
    ],
)
def test_cards_that_say_nothing(card: str | None, tmp_path: Path) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    plain = {"library_name": "transformers", "tags": TAGS}
    assert yaml.safe_load(front_matter(tmp_path, "a name", "python-docs")) == plain
    assert yaml.safe_load(front_matter("", "a name", None)) == plain
    assert yaml.safe_load(front_matter("no-such/model", "a name", None)) == plain


def test_a_folder_is_no_name_on_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert "base_model: a/b" in front_matter("", "a/b", None)
    monkeypatch.chdir(tmp_path)
    assert "base_model" not in front_matter("", "a/b", None)


def test_licences_go_along(original: Path, tmp_path: Path) -> None:
    eckart.compress_checkpoint(original, tmp_path / "small", "svd", 0.6)
    again = eckart.load_model(tmp_path / "small")
    eckart.save(again, tmp_path / "again")
    for folder in ("small", "again"):
        assert (tmp_path / folder / "LICENSE.txt").read_text() == "a licence"
        assert (tmp_path / folder / "NOTICE").read_text() == "a notice"
        card = (tmp_path / folder / "README.md").read_text()
        assert "that of the original model (`LICENSE.txt`, `NOTICE`)" in card
        assert "license: other" in card
    eckart.compress_checkpoint(original, tmp_path / "small", "svd", 0.5, overwrite=True)  # they are known as ours


def test_what_is_there_stays(original: Path, tmp_path: Path) -> None:
    (tmp_path / "NOTICE").write_text("another")
    assert copy_licences(original, tmp_path) == ["LICENSE.txt", "NOTICE"]
    assert (tmp_path / "NOTICE").read_text() == "another"
    assert copy_licences("", tmp_path) == copy_licences("no-such/model", tmp_path) == []
