"""Models that were compressed some time ago, and what is none of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import make_model
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

import eckart
from eckart.checkpoint.config import EckartConfig
from eckart.checkpoint.quantizer import attach
from eckart.checkpoint.records import read_records
from eckart.checkpoint.saveable import check_saveable, records_beside
from eckart.errors import CheckpointError
from eckart.layers import QuantizedLinear
from eckart.maths.quantization import QuantScheme, find_scales, round_to_scheme

FIXTURES = Path(__file__).parents[1] / "fixtures" / "format1"


@pytest.fixture(params=["two-factor", "shared-pivoted", "8-bit"])
def small(request: pytest.FixtureRequest) -> Path:
    return FIXTURES / str(request.param)


def test_a_loaded_model_is_written_as_it_was(small: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(small)
    eckart.save(model, tmp_path / "again")
    before, after = (load_file(next(folder.glob("eckart-*.safetensors"))) for folder in (small, tmp_path / "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (small, tmp_path / "again")]
    described = [config["quantization_config"] for config in configs]
    assert described[0].items() <= described[1].items()
    assert read_records(tmp_path / "again").model_dump() == read_records(small).model_dump()
    assert "loaded and saved again" in (tmp_path / "again" / "README.md").read_text()
    eckart.save(model, tmp_path / "again", overwrite=True)  # it knows what it wrote


def test_what_is_only_rounded_gets_the_standard_format(tmp_path: Path) -> None:
    model, scheme = make_model("llama"), QuantScheme(8)
    paths = [name for name, module in model.model.named_modules(prefix="model") if isinstance(module, nn.Linear)]
    for path in paths:
        linear = model.get_submodule(path)
        layer = QuantizedLinear.empty_like(linear, scheme)
        layer.scale.data = find_scales(linear.weight.data, scheme)
        layer.set_codes(round_to_scheme(linear.weight.data, layer.scale.data, scheme))
        model.set_submodule(path, layer)
    attach(model, EckartConfig(dict.fromkeys(paths), precision="8-bit", own_names=True))
    eckart.save(model, tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").is_file()
    tokens = torch.arange(8)[None]
    again, theirs = (load(tmp_path / "again") for load in (eckart.load_model, AutoModelForCausalLM.from_pretrained))
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)
        assert torch.equal(theirs(tokens).logits, again.dequantize()(tokens).logits)


def test_a_changed_model(small: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(small)
    model.resize_token_embeddings(300, mean_resizing=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01
    eckart.save(model, tmp_path / "again")
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        expected = model(tokens).logits
        assert torch.equal(eckart.load_model(tmp_path / "again")(tokens).logits, expected)


def test_without_records(small: Path, tmp_path: Path, llama: PreTrainedModel) -> None:
    model = AutoModelForCausalLM.from_pretrained(small)
    model.config.name_or_path = str(tmp_path / "gone")
    assert records_beside(model.config.name_or_path) is None
    eckart.save(model, tmp_path / "again")
    assert not (tmp_path / "again" / "README.md").exists()
    eckart.load_model(tmp_path / "again")


def test_what_cannot_be_saved(small: Path, llama: PreTrainedModel, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="LlamaForCausalLM is not compressed by eckart"):
        eckart.save(llama, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(small)
    with pytest.raises(CheckpointError, match="Found a Sequential; expected a model of transformers"):
        check_saveable(nn.Sequential(model))
    with pytest.raises(CheckpointError, match="save needs the folder to write"):
        eckart.save(model, read_records(small))  # type: ignore[call-overload]
    path = next(iter(model.config.quantization_config.ranks))
    model.set_submodule(path, nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=rf"1 layers .* such as {path}"):
        eckart.save(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
