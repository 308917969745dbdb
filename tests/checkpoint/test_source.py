from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.conftest import CONFIGS, make_model
from tests.run.check import architectures
from transformers import AutoModelForCausalLM, MixtralConfig, PreTrainedModel

import eckart
from eckart.blocks.discovery import block_lists
from eckart.checkpoint.source import FileWeights, open_model
from eckart.device import compute_dtype
from eckart.errors import CheckpointError
from eckart.layers import LowRankLinear

CPU = torch.device("cpu")


def stored(kind: str, folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    model = make_model(kind)
    model.to(dtype)
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return model


def watched(weights: FileWeights, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the names of the tensors come that are read from now on."""
    names: list[str] = []
    plain = weights.read

    def read(name: str) -> torch.Tensor:
        names.append(name)
        return plain(name)

    monkeypatch.setattr(weights, "read", read)
    return names


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_model_lent_as_a_whole_is_the_model(kind: str, tmp_path: Path, tokens: torch.Tensor) -> None:
    expected = stored(kind, tmp_path / "model")
    model, weights = open_model(tmp_path / "model", tmp_path / "offload")
    assert all(parameter.is_meta for parameter in model.parameters())
    with weights.onload(model, CPU) as onloaded, torch.no_grad():
        assert torch.equal(model(tokens).logits, expected(tokens).logits)
        state = onloaded.stored()
    assert all(torch.equal(tensor, state[name]) for name, tensor in expected.named_parameters())
    assert all(parameter.is_meta for parameter in model.parameters())
    assert {path.parent for path in weights.files.paths} == {tmp_path / "model"}


def test_only_what_is_lent_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored("llama", tmp_path / "model")
    model, weights = open_model(tmp_path / "model", tmp_path / "offload")
    read = watched(weights, monkeypatch)
    ((_, blocks),) = block_lists(model)
    with weights.onload(blocks[1], CPU):
        assert all(parameter.is_meta for parameter in blocks[0].parameters())
    assert len(read) == 9
    assert all(name.startswith("model.layers.1.") for name in read)
    read.clear()
    with weights.onload(model, CPU, skip=(*blocks, model.get_output_embeddings())):
        pass
    assert sorted(read) == ["model.embed_tokens.weight", "model.norm.weight"]


@pytest.mark.parametrize("kind", ["qwen2", "gemma3", "opt", "gpt2"])
def test_tied_tensors_are_read_once_and_stay_tied(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(kind, tmp_path / "model")
    model, weights = open_model(tmp_path / "model", tmp_path / "offload")
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    ((_, blocks),) = block_lists(model)
    read = watched(weights, monkeypatch)
    with weights.onload(model, CPU, skip=(*blocks, head)):
        assert head.weight is embedding.weight
        assert not head.weight.is_meta
    assert len(read) == len(set(read))
    assert head.weight is embedding.weight
    assert head.weight.is_meta


def test_halves_come_in_the_compute_dtype(tmp_path: Path) -> None:
    stored("llama", tmp_path / "model", torch.bfloat16)
    model, weights = open_model(tmp_path / "model", tmp_path / "offload")
    ((_, blocks),) = block_lists(model)
    with weights.onload(blocks[0], CPU) as onloaded:
        up = blocks[0].get_submodule("mlp.up_proj")
        assert up.weight.dtype is compute_dtype(torch.bfloat16, CPU)
        assert onloaded.dtype("mlp.up_proj.weight") is torch.bfloat16
        onloaded.replace("mlp.up_proj", LowRankLinear.empty_like(up, 3))
        assert {tensor.dtype for tensor in onloaded.stored().values()} == {torch.bfloat16}
    assert all(parameter.is_meta for parameter in blocks[0].parameters())
    assert isinstance(blocks[0].get_submodule("mlp.up_proj"), LowRankLinear)


def test_fused_experts_are_read_as_the_model_has_them(tmp_path: Path, tokens: torch.Tensor) -> None:
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
    )
    expected = AutoModelForCausalLM.from_config(config).eval()
    expected.save_pretrained(tmp_path / "model")
    model, weights = open_model(tmp_path / "model", tmp_path / "offload")
    with weights.onload(model, CPU), torch.no_grad():
        assert torch.equal(model(tokens).logits, expected(tokens).logits)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def test_damaged_files_are_said_before_anything_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    stored("llama", folder)
    whole = shards(folder)[1].read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\xff" * 64, b"\x10" + whole[1:]):
        shards(folder)[1].write_bytes(damaged)
        with pytest.raises(CheckpointError, match=rf"cannot be loaded \({shards(folder)[1].name} is damaged\)"):
            open_model(folder, tmp_path / "offload")
    shards(folder)[1].unlink()
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        open_model(folder, tmp_path / "offload")


def test_a_file_that_goes_away_later_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    stored("llama", folder)
    model, weights = open_model(folder, tmp_path / "offload")
    for shard in shards(folder):
        shard.unlink()
    with pytest.raises(CheckpointError, match="cannot be read from the model's files"), weights.onload(model, CPU):
        pass
    assert isinstance(weights, FileWeights)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_parameters_that_were_left_in_memory_are_read_each_time(tmp_path: Path) -> None:
    expected = architectures.made(architectures.diff_llama)
    expected.save_pretrained(tmp_path / "model")
    model, weights = open_model(tmp_path / "model", tmp_path / "offload")
    for _ in range(2):
        with weights.onload(model, CPU) as onloaded:
            state = onloaded.stored()
        assert all(torch.equal(tensor, state[name]) for name, tensor in expected.named_parameters())
        assert all(parameter.is_meta for parameter in model.parameters())
    eckart.compress_checkpoint(tmp_path / "model", tmp_path / "smaller", "svd", 0.6)
    eckart.compress(expected, "svd", 0.6)
    found = eckart.load_model(tmp_path / "smaller").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.state_dict().items())
