"""Where nothing is factored, other programs load what we write, and compute the same to the last bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import make_model
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

import eckart
from eckart.checkpoint.packed import STANDARD_NAME
from eckart.checkpoint.run_folder import RunFolder
from eckart.checkpoint.standard import nothing_is_factored, standard_config, why_not_standard
from eckart.errors import CheckpointError, EckartWarning
from eckart.layers import QuantizedLinear

WITHOUT = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
torch.save(model(torch.arange(16)[None]).logits, sys.argv[2])
assert "eckart" not in sys.modules
"""
INT4 = ["precision.group=16"]  # which divides the rows of the tiny model


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(16)[None]).logits
    return found


def rounded(recipe: str, dtype: torch.dtype, tokens: torch.Tensor, **options: Any) -> PreTrainedModel:
    model = make_model("llama").to(dtype)
    overrides = [] if recipe == "int8" else INT4
    model.report = eckart.compress(model, recipe, 0.6, tokens, overrides=overrides, **options)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recipe", ["int8", "int4", "gptq"])
def test_the_same_numbers(recipe: str, dtype: torch.dtype, tmp_path: Path, tokens: torch.Tensor) -> None:
    model = rounded(recipe, dtype, tokens, ignore="*.o_proj")
    eckart.save(model, model.report, tmp_path / "small")
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert "transformers_weights" not in config
    assert [path.name for path in (tmp_path / "small").glob("*.safetensors*")] == ["model.safetensors"]
    # Through transformers, as anybody has it; the library of that format decompresses at the first run.
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert type(theirs.hf_quantizer).__name__ == "CompressedTensorsHfQuantizer"
    # Through ours, which computes with the codes.
    ours = eckart.load_model(tmp_path / "small")
    assert sum(isinstance(module, QuantizedLinear) for module in ours.modules()) == 18
    before, after = model.state_dict(), ours.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    if dtype is torch.float32:  # a model that is cast has frequencies of its positions in 16 bits too
        assert torch.equal(logits(ours), logits(model))
    dense = ours.dequantize()
    assert torch.equal(logits(theirs), logits(dense))
    for name, layer in theirs.named_modules():
        if isinstance(layer, torch.nn.Linear):
            assert torch.equal(layer.weight, dense.get_submodule(name).weight)


def test_without_eckart(tmp_path: Path, tokens: torch.Tensor) -> None:
    model = rounded("int8", torch.float32, tokens)
    eckart.save(model, model.report, tmp_path / "small", max_shard_size="20KB")
    assert len(list((tmp_path / "small").glob("model-*.safetensors"))) > 2
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT, tmp_path / "small", tmp_path / "logits"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert torch.equal(torch.load(tmp_path / "logits"), logits(eckart.load_model(tmp_path / "small").dequantize()))


def test_saved_again(tmp_path: Path, tokens: torch.Tensor) -> None:
    model = rounded("int8", torch.float32, tokens)
    eckart.save(model, model.report, tmp_path / "small")
    loaded = eckart.load_model(tmp_path / "small")
    eckart.save(loaded, tmp_path / "again")
    names = ("model.safetensors", STANDARD_NAME, "config.json")
    assert all((tmp_path / "again" / name).read_bytes() == (tmp_path / "small" / name).read_bytes() for name in names)
    loaded.save_pretrained(tmp_path / "theirs")  # by transformers: in our format
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")), logits(model))


@pytest.mark.parametrize("part", ["weight_packed", "weight_shape", "weight_scale"])
def test_what_is_missing_is_said(part: str, tmp_path: Path, tokens: torch.Tensor) -> None:
    model = rounded("int8", torch.float32, tokens)
    eckart.save(model, model.report, tmp_path / "small")
    shard = tmp_path / "small" / "model.safetensors"
    tensors = load_file(shard)
    del tensors[f"model.layers.1.mlp.up_proj.{part}"]
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"lack model\.layers\.1\.mlp\.up_proj\.{part}"):
        eckart.load_model(tmp_path / "small")


def test_from_disk_to_disk(tmp_path: Path, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model("llama").save_pretrained(tmp_path / "dense")

    def compress(**options: Any) -> eckart.CompressionResult:
        return eckart.compress_checkpoint(tmp_path / "dense", tmp_path / "small", "int8", 0.6, **options)

    def stop(folder: RunFolder, mark: object) -> None:
        raise KeyboardInterrupt

    # Killed where the model has its name already, and files that are not part of it are still there.
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "_delete_needless", stop)
        patch.setattr(RunFolder, "close", lambda folder: folder._lock.release())
        with pytest.raises(KeyboardInterrupt):
            compress()
    assert list((tmp_path / "small").glob("eckart-*.safetensors"))
    report = compress(resume=True)
    assert not list((tmp_path / "small").glob("eckart-*"))
    assert not (tmp_path / "small.unfinished").exists()
    model = make_model("llama")
    assert eckart.compress(model, "int8", 0.6).ranks == report.ranks
    assert torch.equal(logits(eckart.load_model(tmp_path / "small")), logits(model))
    compress(overwrite=True)


def test_layers_of_several_kinds() -> None:
    config = LlamaConfig(
        vocab_size=32, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4
    )
    model = AutoModelForCausalLM.from_config(config)
    eckart.compress(model, "int4", 0.6, overrides=["precision.group=64"])
    groups = standard_config(model)["config_groups"]
    assert [group["weights"]["group_size"] for group in groups.values()] == [64, 32]
    assert groups["group_1"]["targets"] == ["model.layers.0.mlp.down_proj"]
    assert "down_proj" not in str(groups["group_0"]["targets"])


@pytest.mark.parametrize(
    ("kind", "overrides", "reason"),
    [
        ("gpt2", [], "is a Conv1D in the class of the model"),
        ("llama", ["precision.group=32"], "the 48 numbers in a row of .*down_proj are no whole number of groups"),
    ],
)
def test_what_the_format_cannot_hold(kind: str, overrides: list[str], reason: str, tmp_path: Path) -> None:
    model = make_model(kind)
    report = eckart.compress(model, "int4" if overrides else "int8", 0.6, overrides=overrides)
    assert nothing_is_factored(model.config.quantization_config)
    with pytest.warns(EckartWarning, match=f"compressed-tensors cannot hold this model: .*{reason}"):
        eckart.save(model, report, tmp_path / "small")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "small")), logits(model))


def test_what_is_factored_stays_ours(llama: PreTrainedModel, tmp_path: Path) -> None:
    report = eckart.compress(llama, "svd", 0.3, overrides=["precision=8-bit"])
    assert not nothing_is_factored(llama.config.quantization_config)
    assert why_not_standard(llama, llama.config.quantization_config) is None
    eckart.save(llama, report, tmp_path / "small")
    (shard,) = (tmp_path / "small").glob("*.safetensors")
    assert any(name.endswith(".first.codes") for name in load_file(shard))
    assert not (tmp_path / "small" / STANDARD_NAME).exists()
