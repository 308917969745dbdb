"""Models that were compressed some time ago, and what is none of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.conftest import make_model
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

import eckart
from eckart.checkpoint.records import read_records
from eckart.checkpoint.saveable import check_saveable, records_beside
from eckart.errors import CheckpointError


@pytest.fixture(params=["structure=two-factor", "sharing=shared", "precision=8-bit"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    model = make_model("llama")
    report = eckart.compress(model, "svd", 0.6, overrides=[request.param], source="a/model")
    eckart.save(model, report, tmp_path / "small")
    return tmp_path / "small"


def test_a_loaded_model_is_written_as_it_was(small: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(small)
    eckart.save(model, tmp_path / "again")
    assert sorted(p.name for p in small.rglob("*")) == sorted(p.name for p in (tmp_path / "again").rglob("*"))
    weights = [next(folder.glob("eckart-*.safetensors")).read_bytes() for folder in (small, tmp_path / "again")]
    assert weights[0] == weights[1]
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (small, tmp_path / "again"))
    assert before == after
    assert read_records(tmp_path / "again").model_dump() == read_records(small).model_dump()
    assert "loaded and saved again" in (tmp_path / "again" / "README.md").read_text()
    assert "loaded and saved again" not in (small / "README.md").read_text()
    eckart.save(model, tmp_path / "again", overwrite=True)  # it knows what it wrote


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
        check_saveable(nn.Sequential(model))  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="save needs the folder to write"):
        eckart.save(model, read_records(small))  # type: ignore[call-overload]
    path = next(iter(model.config.quantization_config.ranks))
    model.set_submodule(path, nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=rf"1 layers .* such as {path}"):
        eckart.save(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
