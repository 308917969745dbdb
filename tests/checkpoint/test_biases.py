"""Layers that were given a bias: on disk, back, and into a dense model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import dealt, make_model
from transformers import AutoModelForCausalLM, PreTrainedModel
from typer.testing import CliRunner

import eckart
from eckart.checkpoint.biases import biases_without_a_place
from eckart.cli.main import app
from eckart.errors import CheckpointError, EckartWarning
from eckart.layers import FactoredLinear

AFFINE = "objective.affine=true"


def logits(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(tokens).logits
    return found.float()


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def compressed(
    kind: str,
    folder: Path,
    tokens: torch.Tensor,
    *overrides: str,
    keep: float = 0.6,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    model = make_model(kind).to(dtype)
    report = eckart.compress(model, "svd-llm", keep, tokens, overrides=[AFFINE, *overrides])
    eckart.save(model, report, folder)
    return model


@pytest.mark.parametrize("structure", ["two-factor", "pivoted"])
@pytest.mark.parametrize(("precision", "keep"), [("16-bit", 0.6), ("8-bit", 0.4), ("4-bit", 0.25)])
@pytest.mark.parametrize(("kind", "dtype"), dealt(["llama", "qwen2", "gpt2"], [torch.float32, torch.bfloat16]))
def test_they_survive_the_disk(
    kind: str, structure: str, precision: str, keep: float, dtype: torch.dtype, tmp_path: Path, tokens: torch.Tensor
) -> None:
    overrides = [f"structure={structure}", f"precision={precision}"]
    model = compressed(kind, tmp_path / "small", tokens, *overrides, keep=keep, dtype=dtype)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype="auto", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ours, theirs = loaded.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    factored = [module for module in loaded.modules() if isinstance(module, FactoredLinear)]
    assert factored
    assert all(layer.dense_bias() is not None for layer in factored)
    assert json.loads((tmp_path / "small" / "config.json").read_text())["quantization_config"]["affine"] is True
    loaded.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype="auto")
    assert torch.equal(logits(again, tokens), logits(loaded, tokens))


def test_one_that_is_missing_raises(tmp_path: Path, tokens: torch.Tensor) -> None:
    compressed("llama", tmp_path / "small", tokens)
    (shard,) = (tmp_path / "small").glob("*.safetensors")
    tensors = load_file(shard)
    del tensors["model.layers.1.mlp.up_proj.second.bias"]
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lack model\.layers\.1\.mlp\.up_proj\.second\.bias"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "small")


@pytest.mark.parametrize("structure", ["two-factor", "pivoted"])
def test_a_dense_model_with_a_place_for_them_is_written(structure: str, tmp_path: Path, tokens: torch.Tensor) -> None:
    model = compressed("gpt2", tmp_path / "small", tokens, f"structure={structure}")
    assert biases_without_a_place(model) == []
    result = CliRunner().invoke(app, ["merge", str(tmp_path / "small"), "-o", str(tmp_path / "dense")])
    assert result.exit_code == 0, result.output
    assert_same(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "dense"), tokens), logits(model, tokens))


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_dense_model_without_a_place_for_them_is_right_in_memory_only(
    kind: str, tmp_path: Path, tokens: torch.Tensor
) -> None:
    model = compressed(kind, tmp_path / "small", tokens)
    result = CliRunner().invoke(app, ["merge", str(tmp_path / "small"), "-o", str(tmp_path / "dense")])
    assert result.exit_code == 2
    message = " ".join(result.stderr.split())
    assert "cannot be merged" in message
    assert "objective.affine=false" in message
    assert not (tmp_path / "dense").exists()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    names = biases_without_a_place(loaded)
    assert "model.layers.0.mlp.up_proj" in names
    assert ("model.layers.0.self_attn.q_proj" in names) == (kind == "llama")
    with pytest.warns(EckartWarning, match=r"right in memory, but cannot be saved: .* objective\.affine=false"):
        dense = loaded.dequantize()
    assert_same(logits(dense, tokens), logits(model, tokens))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "opt"])
@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_joint_layers_have_them_too(kind: str, tmp_path: Path, tokens: torch.Tensor) -> None:
    model = compressed(kind, tmp_path / "small", tokens, "sharing=shared")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert_same(logits(loaded, tokens), logits(model, tokens))
    without = biases_without_a_place(loaded)
    assert any(name.endswith("gate_proj") for name in without) == (kind != "opt")
    assert any(name.endswith("q_proj") for name in without) == (kind == "llama")
    dense = loaded.dequantize()
    assert not any("joint" in name for name in dense.state_dict())
    assert_same(logits(dense, tokens), logits(model, tokens))
