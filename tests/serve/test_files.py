"""Folders whose weight files are not those that the index names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

import eckart
from eckart.errors import CheckpointError, ServingError
from eckart.serve.files import check_weight_files


@pytest.fixture
def folder(llama: PreTrainedModel, tmp_path: Path) -> Path:
    report = eckart.compress(llama, "svd", 0.6)
    eckart.save(llama, report, tmp_path / "model")
    check_weight_files(tmp_path / "model")
    return tmp_path / "model"


def test_a_hub_name_is_left_alone() -> None:
    check_weight_files("somebody/some-model")


def test_a_missing_file(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[0].unlink()
    with pytest.raises(ServingError, match=r"lacks the weight file eckart-.*, which eckart\.safetensors\.index\.json"):
        check_weight_files(folder)


def test_a_missing_tensor(folder: Path) -> None:
    name, file = next(
        (name, file)
        for file in folder.glob("*.safetensors")
        for name in load_file(file)
        if name.endswith("second.weight")
    )
    tensors = load_file(file)
    del tensors[name]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ServingError, match=f"lack {name}, which"):
        check_weight_files(folder)


def test_a_file_too_many(folder: Path) -> None:
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ServingError, match=r"holds the weight file model\.safetensors, which its index does not name"):
        check_weight_files(folder)


def test_a_link_to_elsewhere(folder: Path, tmp_path: Path) -> None:
    file = sorted(folder.glob("*.safetensors"))[0]
    shutil.move(file, tmp_path / "elsewhere.safetensors")
    file.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(CheckpointError):
        check_weight_files(folder)


def test_a_dense_folder_of_one_file(llama: PreTrainedModel, tmp_path: Path) -> None:
    llama.save_pretrained(tmp_path / "dense")
    check_weight_files(tmp_path / "dense")
