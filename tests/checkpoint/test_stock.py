from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import make_model
from torch import Tensor
from transformers import AutoModelForCausalLM, MptConfig, MptForCausalLM

import eckart
from eckart.checkpoint.stock import stock_field
from eckart.errors import EckartWarning
from eckart.layers import is_replaced

pytestmark = pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(("kind", "field"), [("llama", "intermediate_size"), ("gpt2", "n_inner"), ("opt", "ffn_dim")])
def test_a_model_with_fewer_units_is_a_plain_one(kind: str, field: str, tokens: Tensor, tmp_path: Path) -> None:
    model = make_model(kind)
    report = eckart.compress(model, "fewer-units", 0.6, tokens)
    (kept,) = set(report.ranks.values())
    assert stock_field(model, model.config.quantization_config) == ((field,), kept)
    with torch.no_grad():
        expected = model(tokens).logits
    eckart.save(model, report, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    assert "transformers_weights" not in config
    assert config[field] == kept
    assert not [name for name in files_of(tmp_path / "out") if name.startswith("eckart") and "." in name]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not any(map(is_replaced, again.modules()))
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, expected)


def test_from_files_block_by_block_it_is_the_same(tokens: Tensor, tmp_path: Path) -> None:
    make_model("llama").save_pretrained(tmp_path / "model")
    samples = [{"input_ids": row[None]} for row in tokens]
    eckart.compress_checkpoint(tmp_path / "model", tmp_path / "out", "fewer-units", 0.6, calibration=samples)
    found = {key: x for file in (tmp_path / "out").glob("*.safetensors") for key, x in load_file(file).items()}
    model = make_model("llama")
    eckart.compress(model, "fewer-units", 0.6, tokens)
    assert found.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.allclose(found[key], tensor, atol=1e-4)
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    # The same run once more is known to be finished.
    eckart.compress_checkpoint(
        tmp_path / "model", tmp_path / "out", "fewer-units", 0.6, calibration=samples, resume=True
    )
    shown = eckart.CompressionResult.model_validate_json((tmp_path / "out" / "eckart" / "report.json").read_text())
    assert shown.keep == 0.5


def test_widths_that_differ_stay_in_our_own_format(tokens: Tensor, tmp_path: Path) -> None:
    model = make_model("llama")
    overrides = ["allocation=block-influence", "allocation.multiple=1", "allocation.temperature=0.01"]
    report = eckart.compress(model, "fewer-units", 0.6, tokens, overrides=overrides)
    assert len(set(report.ranks.values())) > 1
    assert stock_field(model, model.config.quantization_config) is None
    with torch.no_grad():
        expected = model(tokens).logits
    eckart.save(model, report, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["intermediate_size"] == 48
    assert all(kept["direct"] for kept in config["quantization_config"]["kept"].values())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, expected)
    eckart.save(again, tmp_path / "once-more")
    third = AutoModelForCausalLM.from_pretrained(tmp_path / "once-more")
    with torch.no_grad():
        assert torch.equal(third(tokens).logits, expected)


def test_heads_stay_in_our_own_format(tokens: Tensor) -> None:
    model = make_model("llama")
    eckart.compress(model, "modegpt", 0.6, tokens)
    assert stock_field(model, model.config.quantization_config) is None


def test_a_class_without_one_field_for_its_units_says_so(tokens: Tensor, tmp_path: Path) -> None:
    config = MptConfig(d_model=32, n_heads=4, n_layers=2, vocab_size=256, max_seq_len=64)  # some fields refuse numbers
    model = MptForCausalLM(config).eval()
    report = eckart.compress(model, "fewer-units", 0.7, tokens)
    with pytest.warns(EckartWarning, match="no plain MptForCausalLM has these shapes by one number of its config"):
        eckart.save(model, report, tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(eckart.load_model(tmp_path / "out")(tokens).logits, model(tokens).logits)
