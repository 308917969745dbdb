from __future__ import annotations

import pytest
import torch
from tests.conftest import make_model
from torch import nn
from transformers import PreTrainedModel

from eckart.blocks.onload import ResidentWeights
from eckart.layers import LowRankLinear

CPU = torch.device("cpu")


@pytest.mark.parametrize("emulated", [True, False])
def test_halves_are_widened_where_they_are_slow_and_given_back_bit_by_bit(
    emulated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eckart.device.is_emulated", lambda dtype: emulated)
    module = nn.Sequential(nn.Linear(3, 3, dtype=torch.bfloat16), nn.LayerNorm(3))
    module.register_buffer("frequencies", torch.tensor([1.0, 1 / 3]))
    module.register_buffer("steps", torch.tensor([1, 2]))
    before = {name: t.clone() for name, t in module.state_dict().items()}
    with ResidentWeights().onload(module, CPU):
        assert module[0].weight.dtype is (torch.float32 if emulated else torch.bfloat16)
        assert module.steps.dtype is torch.int64
    after = module.state_dict()
    assert all(after[name].dtype is t.dtype and torch.equal(after[name], t) for name, t in before.items())


def test_a_new_layer_gets_the_dtype_of_the_one_it_replaces() -> None:
    module = nn.Sequential(nn.Linear(3, 3, dtype=torch.bfloat16))
    with ResidentWeights().onload(module, CPU) as onloaded:
        assert onloaded.dtype("0.weight") is torch.bfloat16
        onloaded.replace("0", LowRankLinear(3, 3, 2))
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}


def test_tensors_come_back_after_an_error() -> None:
    module = nn.Linear(3, 3, dtype=torch.float16)
    with pytest.raises(KeyError), ResidentWeights().onload(module, CPU):
        raise KeyError
    assert module.weight.dtype is torch.float16


@pytest.mark.parametrize(("kind", "head"), [("llama", torch.bfloat16), ("qwen2", torch.float32)])
def test_skipped_parts_stay_unless_they_are_tied_to_the_rest(
    kind: str, head: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eckart.device.is_emulated", lambda dtype: True)
    model: PreTrainedModel = make_model(kind).to(torch.bfloat16)
    with ResidentWeights().onload(model, CPU, skip=(model.model.layers[1], model.get_output_embeddings(), None)):
        assert model.model.layers[0].mlp.up_proj.weight.dtype is torch.float32
        assert model.model.layers[1].mlp.up_proj.weight.dtype is torch.bfloat16
        assert model.lm_head.weight.dtype is head
    assert model.lm_head.weight.dtype is torch.bfloat16
