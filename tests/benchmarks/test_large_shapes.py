"""Random models of public shapes: they load, and numbers are those that were asked for."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

import eckart
from eckart.layers import QuantizedLinear

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
IDS = torch.arange(16)[None]


@pytest.fixture
def large_shapes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("large_shapes")


def test_a_dense_model_has_singular_values_that_fall(large_shapes: ModuleType, tmp_path: Path) -> None:
    large_shapes.write(large_shapes.shape("tiny"), tmp_path / "dense")
    model = eckart.load_model(tmp_path / "dense")
    assert model.dtype == torch.bfloat16
    for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"):
        values = torch.linalg.svdvals(model.model.layers[0].get_submodule(name).weight.detach().float())
        assert values[0] > 2 * values[len(values) // 4] > 2 * values[len(values) // 2]
    assert 0.1 < model(IDS).logits.std() < 10
    assert len(list((tmp_path / "dense").glob("*.safetensors"))) == 4  # embeddings, two blocks, norm and head


@pytest.mark.parametrize("precision", ["16-bit", "8-bit", "4-bit"])
def test_factors_are_of_ranks_that_products_like(large_shapes: ModuleType, precision: str, tmp_path: Path) -> None:
    large_shapes.write(large_shapes.shape("tiny", blocks=1), tmp_path / "small", keep=0.9, precision=precision)
    model = eckart.load_model(tmp_path / "small")
    layer = model.model.layers[0].mlp.up_proj
    assert isinstance(layer, eckart.LowRankLinear)
    assert layer.rank == 64  # of 69
    assert isinstance(layer.first, QuantizedLinear) == (precision != "16-bit")
    assert model(IDS).logits.isfinite().all()


@pytest.mark.parametrize("name", ["llama-2-7b", "llama-3-8b", "qwen2.5-7b", "gemma-3-27b"])
def test_shapes_have_as_many_numbers_as_their_names_say(large_shapes: ModuleType, name: str) -> None:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(large_shapes.shape(name))
    billions = float(name.rpartition("-")[2].removesuffix("b"))
    assert billions * 0.93 < model.num_parameters() / 1e9 < billions * 1.1
