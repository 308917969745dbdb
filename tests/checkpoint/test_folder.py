"""Folders that name or hold what must not be opened are refused by everything that loads a model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, PreTrainedModel

import eckart
from eckart.checkpoint import load_model, load_tokenizer
from eckart.checkpoint.folder import check_folder, files_of_index, weight_files
from eckart.errors import CheckpointError

INDEX = "model.safetensors.index.json"


def name_shard(folder: Path, name: str, index: str = INDEX) -> None:
    """Let every tensor of a model be in a file of that name."""
    data = {"metadata": {}, "weight_map": {"lm_head.weight": name}}
    (folder / index).write_text(json.dumps(data))


def outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")


def by_index(folder: Path) -> None:
    outside(folder)
    name_shard(folder, "../outside.safetensors")


def by_full_name(folder: Path) -> None:
    outside(folder)
    name_shard(folder, str(folder.parent / "outside.safetensors"))


def by_link(folder: Path) -> None:
    outside(folder)
    (folder / "model.safetensors").symlink_to(folder.parent / "outside.safetensors")


def by_config(folder: Path) -> None:
    outside(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": "../outside.safetensors"}))


def by_device(folder: Path) -> None:
    outside(folder)
    name_shard(folder, "/dev/zero")


def by_pipe(folder: Path) -> None:
    outside(folder)
    os.mkfifo(folder / "pipe.safetensors")
    name_shard(folder, "pipe.safetensors")


def by_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder.parent / "tokenizer.5.0.0.json")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["fast_tokenizer_files"] = ["../tokenizer.5.0.0.json"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def piped_config(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    os.mkfifo(folder / "generation_config.json")


HOSTILE = [by_index, by_full_name, by_link, by_config, by_device, by_pipe, by_tokenizer, piped_config]


@pytest.mark.parametrize("change", HOSTILE)
def test_nothing_outside_is_opened(change: Callable[[Path], None], model_folder: Path, tmp_path: Path) -> None:
    check_folder(model_folder)
    change(model_folder)
    before = sorted(path.name for path in tmp_path.iterdir())
    for use in (
        check_folder,
        load_model,
        load_tokenizer,
        lambda folder: eckart.compress_checkpoint(folder, tmp_path / "out", "svd", 0.8),
    ):
        with pytest.raises(CheckpointError, match=r"outside|a pipe|a device"):
            use(model_folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["../../x.safetensors", "/etc/x.safetensors"])
def test_names_outside_that_are_not_there_are_said_too(name: str, model_folder: Path) -> None:
    name_shard(model_folder, name)
    with pytest.raises(CheckpointError, match="outside"):
        check_folder(model_folder)


def test_plain_from_pretrained_of_a_compressed_folder(llama: PreTrainedModel, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    eckart.save(llama, eckart.compress(llama, "svd", 0.6), folder)
    (shard,) = folder.glob("*.safetensors")
    shard.rename(tmp_path / "outside.safetensors")
    (index,) = folder.glob("*.index.json")
    for name in ("../outside.safetensors", "/dev/zero"):
        name_shard(folder, name, index.name)
        for load in (AutoModelForCausalLM.from_pretrained, type(llama).from_pretrained):
            with pytest.raises(CheckpointError, match="outside"):
                load(folder)


@pytest.mark.parametrize(
    "index", [[], {}, {"weight_map": []}, {"weight_map": {"a": 3}}, {"weight_map": {"a": "b"}, "metadata": 3}]
)
def test_an_index_that_is_none(index: object, model_folder: Path) -> None:
    (model_folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"no weight_map|metadata"):
        check_folder(model_folder)


def test_what_is_not_read_does_not_matter(model_folder: Path, tmp_path: Path) -> None:
    (model_folder / ".cache").symlink_to(tmp_path)
    (model_folder / "runs").symlink_to(tmp_path)
    check_folder(model_folder)
    check_folder("")
    check_folder("no/such-model")


def test_weight_files(model_folder: Path, tmp_path: Path) -> None:
    assert weight_files(model_folder) == [model_folder / "model.safetensors"]
    assert weight_files(tmp_path) == weight_files("no/such-model") == []
    name_shard(model_folder, "other.safetensors")
    assert files_of_index(model_folder, INDEX) == ["other.safetensors"]


def test_parts_of_a_config_that_are_no_objects_are_told_by_whatever_reads_the_folder(model_folder: Path) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    (model_folder / "config.json").write_text(json.dumps({**config, "quantization_config": []}))
    for load in (load_model, load_tokenizer):
        with pytest.raises(CheckpointError, match=r"has quantization_config = \[\]; expected an object"):
            load(model_folder)
