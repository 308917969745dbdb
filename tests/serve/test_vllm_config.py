"""Folders that vLLM cannot serve are refused by name, before any token; those on several devices give the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.serve.engine import Engine
from tests.serve.models import PROMPTS, compressed, greedy

pytestmark = [pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compressed(tmp_path_factory.mktemp("good") / "model")


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """Return a copy of a good folder."""
    copy = tmp_path / "model"
    copy.mkdir()
    for file in good.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    return copy


def edit(folder: Path, **fields: Any) -> None:
    """Change fields of the quantization_config."""
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"].update(fields)
    (folder / "config.json").write_text(json.dumps(config))


def change_tensor(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    """Put another tensor in the place of one, or take it out of the files and of the index."""
    index = json.loads((folder / "eckart.safetensors.index.json").read_text())
    file = folder / index["weight_map"][name]
    tensors = load_file(file)
    if tensor is None:
        del tensors[name], index["weight_map"][name]
        (folder / "eckart.safetensors.index.json").write_text(json.dumps(index))
    else:
        tensors[name] = tensor
    save_file(tensors, file, {"format": "pt"})


def refused(engine: Engine, folder: Path, **options: Any) -> str:
    answer = engine.ask(folder, PROMPTS, 2, **options)
    assert isinstance(answer, str), "tokens came"
    return answer


def test_an_artefact_of_a_newer_format(engine: Engine, folder: Path) -> None:
    edit(folder, format_version=2)
    assert "CheckpointError: This model was saved in eckart format 2" in refused(engine, folder)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.self_attn.k_proj.second.weight",
        "model.layers.0.mlp.down_proj.first.weight",
    ],
)
def test_a_missing_factor(name: str, engine: Engine, folder: Path) -> None:
    change_tensor(folder, name, None)
    assert f"ServingError: The weight files lack {name}" in refused(engine, folder)


def test_a_missing_weight_of_a_layer_that_is_whole(engine: Engine, tmp_path: Path) -> None:
    folder = compressed(tmp_path / "model", "targets.*.mlp.*=leave")
    change_tensor(folder, "model.layers.1.mlp.up_proj.weight", None)
    answer = refused(engine, folder)
    assert "ServingError: The weight files lack 1 of 2 weights of model.layers.1.mlp.gate_up_proj" in answer


def test_a_rank_that_the_files_do_not_have(engine: Engine, folder: Path) -> None:
    """The linears of a fused layer disagree with what config.json says of them."""
    name = "model.layers.0.self_attn.q_proj"
    ranks = json.loads((folder / "config.json").read_text())["quantization_config"]["ranks"]
    edit(folder, ranks={**ranks, name: ranks[name] + 1})
    assert f"hold {name}.first.weight of shape ({ranks[name]}, 128); expected" in refused(engine, folder)


def test_a_factor_without_a_file(engine: Engine, folder: Path) -> None:
    sorted(folder.glob("eckart-*.safetensors"))[0].unlink()
    assert "ServingError" in refused(engine, folder)


def test_a_linear_that_the_model_does_not_have(engine: Engine, folder: Path) -> None:
    ranks = json.loads((folder / "config.json").read_text())["quantization_config"]["ranks"]
    edit(folder, ranks={**ranks, "model.layers.0.mlp.other_proj": 3})
    answer = refused(engine, folder)
    assert "ServingError: This engine has no linear layer for model.layers.0.mlp.other_proj" in answer


def test_experts_are_refused(engine: Engine, tmp_path: Path) -> None:
    folder = compressed(tmp_path / "model", kind="mixtral", keep=0.7)
    answer = refused(engine, folder)
    assert "ServingError" in answer
    assert "experts" in answer


@pytest.fixture(scope="module")
def several() -> Iterator[Engine]:
    """Return an engine that may start processes."""
    pytest.importorskip("vllm", reason="vLLM is not installed: see docs/serving.md")
    found = Engine(several=True)
    yield found
    found.close()


@pytest.mark.parametrize("overrides", [[], ["structure=pivoted"], ["structure=hybrid", "structure.base.group=32"]])
def test_two_devices_give_the_same(overrides: list[str], several: Engine, tmp_path: Path) -> None:
    folder = compressed(tmp_path / "model", *overrides, kind="llama-tied-biases", keep=0.75)
    assert several.ask(folder, PROMPTS, tensor_parallel_size=2) == greedy(folder)


def test_a_number_of_devices_that_does_not_divide(several: Engine, good: Path) -> None:
    answer = refused(several, good, tensor_parallel_size=3)
    assert "attention heads (4) must be divisible by" in answer
