"""A model whose files change while it is in memory gives no numbers under its first name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.conftest import make_model
from transformers import PreTrainedModel

import eckart
from eckart.checkpoint.loaded import check_unchanged
from eckart.errors import CheckpointError


def touch(folder: Path) -> None:
    (file,) = folder.glob("*.safetensors")
    data = file.read_bytes()
    file.write_bytes(data[:-4] + bytes(4))
    os.utime(file, ns=(1, 1))


def test_a_changed_file_is_named(model_folder: Path) -> None:
    first, second = eckart.load_model(model_folder), make_model()
    check_unchanged(first, second)
    touch(model_folder)
    check_unchanged(second)
    with pytest.raises(CheckpointError, match=r"model\.safetensors was changed"):
        check_unchanged(second, first)


def test_a_file_that_changes_while_it_is_loaded(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated = PreTrainedModel.from_pretrained.__func__

    def slow(kind: type[PreTrainedModel], /, *arguments: object, **options: object) -> object:
        found = evaluated(kind, *arguments, **options)
        touch(model_folder)
        return found

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(slow))
    with pytest.raises(CheckpointError, match=r"model\.safetensors was changed"):
        eckart.load_model(model_folder)
