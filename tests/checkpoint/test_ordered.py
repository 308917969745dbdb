"""Pivoted layers without an index, on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tests.checkpoint.test_quantizer import assert_same, edit_config, logits
from tests.conftest import make_model
from transformers import AutoModelForCausalLM, PreTrainedModel

import eckart
from eckart.blocks.hidden_units import Ordered
from eckart.errors import CheckpointError
from eckart.layers import PivotedLinear

FC1 = [f"model.decoder.layers.{number}.fc1" for number in range(2)]


def make(folder: Path, tokens: torch.Tensor, structure: str = "pivoted") -> PreTrainedModel:
    model = make_model("opt")
    report = eckart.compress(model, "svd-llm", 0.6, tokens, overrides=[f"structure={structure}"])
    eckart.save(model, report, folder)
    return model


def stored_ordered(folder: Path) -> list[str]:
    return list(json.loads((folder / "config.json").read_text())["quantization_config"]["ordered"])


def indices(folder: Path) -> set[str]:
    (shard,) = folder.glob("*.safetensors")
    with safe_open(shard, "pt") as file:
        return {name.removesuffix(".index") for name in file.keys() if name.endswith(".index")}  # noqa: SIM118


def test_they_survive_the_disk_and_being_saved_again(tmp_path: Path, tokens: torch.Tensor) -> None:
    model = make(tmp_path / "small", tokens)
    pivoted = {name for name, layer in model.named_modules() if isinstance(layer, PivotedLinear)}
    ordered = stored_ordered(tmp_path / "small")
    assert set(FC1) <= set(ordered)
    assert indices(tmp_path / "small") == pivoted - set(ordered)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "small", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    loaded.save_pretrained(tmp_path / "again")
    assert stored_ordered(tmp_path / "again") == ordered
    for folder in ("small", "again"):
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / folder)
        assert all(loaded.get_submodule(path).index is None for path in ordered)
        assert_same(logits(loaded, tokens), logits(model, tokens))
        half = AutoModelForCausalLM.from_pretrained(tmp_path / folder, dtype=torch.bfloat16)
        assert_same(logits(half, tokens), logits(model, tokens), 0.1)
        assert_same(logits(loaded.dequantize(), tokens), logits(model, tokens))


def test_a_checkpoint_from_before_is_read(
    tmp_path: Path, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eckart.compression.unit_order.put_in_order", lambda block, units: Ordered([], {}))
    folder = tmp_path / "small"
    model = make(folder, tokens)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    assert config["quantization_config"].pop("ordered") == []
    path.write_text(json.dumps(config))
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert all(layer.index is not None for layer in loaded.modules() if isinstance(layer, PivotedLinear))
    assert_same(logits(loaded, tokens), logits(model, tokens))


@pytest.mark.parametrize(
    ("ordered", "message"),
    [
        ([*FC1, "model.decoder.layers.0.fc2"], r"fc2 are in order without an index, but the weight files hold one"),
        ([*FC1, "model.decoder.layers.7.fc1"], r"layers\.7\.fc1 are in order .*expected the path of a pivoted layer"),
        (FC1[0], r"quantization_config\.ordered = .* valid list"),
        ([[FC1[0]], 3], r"quantization_config\.ordered\.0 = .* valid string"),
        (FC1[:1], rf"lack {FC1[1]}\.index"),
        ([], rf"lack {FC1[0]}\.index"),
    ],
)
def test_what_the_files_do_not_agree_with_raises(
    tmp_path: Path, tokens: torch.Tensor, ordered: object, message: str
) -> None:
    folder = tmp_path / "small"
    make(folder, tokens)
    edit_config(folder, ordered=ordered)
    with pytest.raises(CheckpointError, match=message):
        AutoModelForCausalLM.from_pretrained(folder)


def test_layers_that_are_not_pivoted_have_no_index(tmp_path: Path, tokens: torch.Tensor) -> None:
    folder = tmp_path / "small"
    make(folder, tokens, "two-factor")
    assert stored_ordered(folder) == []
    edit_config(folder, ordered=FC1)
    with pytest.raises(CheckpointError, match="expected the path of a pivoted layer"):
        AutoModelForCausalLM.from_pretrained(folder)
