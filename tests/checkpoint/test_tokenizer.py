from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.helpers import run, words
from transformers import PreTrainedModel

import eckart
from eckart.checkpoint import load_tokenizer
from eckart.checkpoint.tokenizer import copy_tokenizer, tokenizer_files
from eckart.errors import CheckpointError, EckartWarning


@pytest.fixture
def broken(model_folder: Path) -> Path:
    """A model whose tokenizer is cut off."""
    (model_folder / "tokenizer.json").write_text('{"version": "1.0", "model"')
    return model_folder


def test_one_that_cannot_be_loaded_is_not_absent(broken: Path, text_file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is there, but cannot be loaded"):
        load_tokenizer(broken)
    for command in (
        ["compress", broken, "-o", tmp_path / "out", "--recipe", "svd-llm", "--calibration", text_file],
        ["eval", broken, "--text", text_file],
    ):
        result = run(*command)
        assert result.exit_code == 2
        assert "is there, but cannot be loaded" in words(result.output)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["tokenizer_config.json", "tokenizer.json", "vocab.json", "tokenizer.model"])
def test_any_file_of_one_counts(name: str, llama: PreTrainedModel, tmp_path: Path) -> None:
    llama.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path) is None
    (tmp_path / name).write_text("[]")
    with pytest.raises(CheckpointError, match="is there, but cannot be loaded"):
        load_tokenizer(tmp_path)


def test_where_no_text_is_read_it_is_said_and_its_files_are_copied(broken: Path, tmp_path: Path) -> None:
    with pytest.warns(EckartWarning, match="cannot be loaded: .* Its files are copied as they are"):
        eckart.compress_checkpoint(broken, tmp_path / "out", "svd", 0.8)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (broken / name).read_bytes()
    result = run("merge", tmp_path / "out", "-o", tmp_path / "merged")
    assert result.exit_code == 0, result.output
    assert "Its files are copied as they are" in words(result.output)
    assert (tmp_path / "merged" / "tokenizer.json").read_bytes() == (broken / "tokenizer.json").read_bytes()


def test_only_files_of_tokenizers_are_copied(model_folder: Path, tmp_path: Path) -> None:
    (model_folder / "spiece.model").write_bytes(b"x")
    assert tokenizer_files(model_folder) == ["spiece.model", "tokenizer.json", "tokenizer_config.json"]
    assert copy_tokenizer(model_folder, tmp_path) == tokenizer_files(tmp_path)
    assert tokenizer_files("no/such-model") == []
    assert json.loads((tmp_path / "tokenizer.json").read_text())
