"""Odd checkpoints: opened from disk each is the model that the base library loads, and nothing is lost unsaid."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import make_model
from transformers import AutoModelForCausalLM, PreTrainedModel

import eckart
from eckart.checkpoint import load_model
from eckart.checkpoint.source import open_model
from eckart.errors import CheckpointError

CPU = torch.device("cpu")
Tensors = dict[str, torch.Tensor]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def another_head(tensors: Tensors) -> None:
    tensors[HEAD] = tensors[EMBEDDING].flip(0).contiguous()


def the_same_head(tensors: Tensors) -> None:
    tensors[HEAD] = tensors[EMBEDDING].clone()


def head_only(tensors: Tensors) -> None:
    tensors[HEAD] = tensors.pop(EMBEDDING)


def no_prefix(tensors: Tensors) -> None:
    for name in [name for name in tensors if name.startswith("model.")]:
        tensors[name.removeprefix("model.")] = tensors.pop(name)


def mixed_dtypes(tensors: Tensors) -> None:
    for name in list(tensors)[::2]:
        tensors[name] = tensors[name].double()


def old_buffers(tensors: Tensors) -> None:
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)


def as_it_is(tensors: Tensors) -> None:
    pass


CHANGES = [another_head, the_same_head, head_only, no_prefix, mixed_dtypes, old_buffers, as_it_is]


def stored(folder: Path, change: Callable[[Tensors], None], kind: str = "qwen2") -> Path:
    """Write a model, by default one whose head is tied to its embedding, and change what its file holds."""
    make_model(kind).save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def logits(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(tokens).logits
    return found


@pytest.mark.parametrize("change", CHANGES)
def test_opened_without_weights_it_is_the_base_librarys(
    change: Callable[[Tensors], None], tmp_path: Path, tokens: torch.Tensor
) -> None:
    folder = stored(tmp_path / "model", change)
    expected = logits(AutoModelForCausalLM.from_pretrained(folder), tokens)
    model, weights = open_model(folder, tmp_path / "offload")
    with weights.onload(model, CPU):
        assert torch.equal(logits(model, tokens), expected)
    assert weights.notes == []


@pytest.mark.parametrize("change", [another_head, head_only, no_prefix, mixed_dtypes])
def test_all_that_is_kept_is_the_base_librarys(
    change: Callable[[Tensors], None], tmp_path: Path, tokens: torch.Tensor
) -> None:
    folder = stored(tmp_path / "model", change)
    expected = logits(AutoModelForCausalLM.from_pretrained(folder), tokens)
    eckart.compress_checkpoint(folder, tmp_path / "out", "svd", 1.0)
    assert torch.allclose(logits(load_model(tmp_path / "out"), tokens), expected, atol=1e-4)


def test_shards_and_pickled_weights(tmp_path: Path, tokens: torch.Tensor) -> None:
    model = make_model("qwen2")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    (tmp_path / "bin").mkdir()
    model.config.save_pretrained(tmp_path / "bin")
    torch.save(model.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    for name in ("shards", "bin"):
        opened, weights = open_model(tmp_path / name, tmp_path / f"offload-{name}")
        with weights.onload(opened, CPU):
            assert torch.equal(logits(opened, tokens), logits(model, tokens))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float8_e4m3fn])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
def test_numbers_of_another_kind_are_no_weights(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors[name] = tensors[name].to(dtype)

    folder = stored(tmp_path / "model", change)
    for load in (load_model, lambda folder: open_model(folder, tmp_path / "offload")):
        with pytest.raises(CheckpointError, match=rf"holds {name} as [A-Z0-9_]+; expected F64 or F32"):
            load(folder)


def test_what_differs_stays_apart_in_the_result(tmp_path: Path, tokens: torch.Tensor) -> None:
    folder = stored(tmp_path / "model", another_head)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"]
    eckart.compress_checkpoint(folder, tmp_path / "out", "svd", 0.8)
    loaded = load_model(tmp_path / "out")
    tensors = load_file(folder / "model.safetensors")
    assert torch.equal(loaded.lm_head.weight, tensors[HEAD])
    assert torch.equal(loaded.model.embed_tokens.weight, tensors[EMBEDDING])
