from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tests.conftest import CONFIGS, make_model
from torch import nn
from transformers import PreTrainedModel

import eckart
from eckart.blocks.discovery import find_blocks
from eckart.blocks.fuse import fusable, fuse, unfuse
from eckart.blocks.onload import ResidentWeights
from eckart.checkpoint.source import open_model
from eckart.errors import EckartError
from eckart.layers import fused_layers, weight_matrix

GROUPS = {"llama": 2, "qwen2": 2, "gemma3": 2, "opt": 1, "phi3": 0, "gpt2": 0, "gpt-neox": 0}


@pytest.mark.parametrize("kind", CONFIGS)
def test_joined_in_memory_and_taken_apart_a_model_is_what_it_was(kind: str, tokens: torch.Tensor) -> None:
    model, weights = make_model(kind), ResidentWeights()
    before = copy.deepcopy(model)
    fuse(model, fusable(find_blocks(model)), weights)
    assert len(fused_layers(model)) == GROUPS[kind] * model.config.num_hidden_layers
    joined = find_blocks(model)
    assert sum(ref.size for block in joined for ref in block.linears) == sum(
        ref.size for block in find_blocks(before) for ref in block.linears
    )
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, before(tokens).logits)
    unfuse(model, fused_layers(model), weights)
    assert model.state_dict().keys() == before.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.state_dict().items())


@pytest.mark.parametrize("kind", ["llama", "qwen2", "opt"])
def test_joined_in_files_the_parts_are_read_together(kind: str, tmp_path: Path, tokens: torch.Tensor) -> None:
    expected = make_model(kind)
    expected.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    model, weights = open_model(tmp_path / "model", tmp_path / "offload")
    for change in ("join", "separate"):
        if change == "join":
            fuse(model, fusable(find_blocks(model, weights)), weights)
        else:
            unfuse(model, fused_layers(model), weights)
        assert all(parameter.is_meta for parameter in model.parameters())
        with weights.onload(model, torch.device("cpu")), torch.no_grad():
            torch.testing.assert_close(model(tokens).logits, expected(tokens).logits)
    assert not fused_layers(model)


def test_linears_of_different_kinds_stay_separate(llama: PreTrainedModel) -> None:
    attention = llama.model.layers[1].self_attn
    biased = nn.Linear(32, 16)
    attention.v_proj = biased
    groups = fusable(find_blocks(llama))
    assert len(groups) == 2 * 3 - 1
    assert not any("1.self_attn" in ref.path for group in groups for ref in group.linears)


@pytest.mark.parametrize("sharing", ["shared", "by-loss"])
def test_after_an_error_the_model_is_unchanged(sharing: str, llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    before = copy.deepcopy(llama)
    with pytest.raises(EckartError):
        eckart.compress(llama, "svd-llm", 0.5, tokens, overrides=[f"sharing={sharing}", "allocation.floor=1.0"])
    assert not fused_layers(llama)
    assert all(torch.equal(tensor, llama.state_dict()[name]) for name, tensor in before.state_dict().items())


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_a_shared_basis_is_the_truncated_stack(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    """The first group of the first block: the inputs are those of the original model, so that brute force can tell."""
    attention = llama.model.layers[0].self_attn
    inputs: list[torch.Tensor] = []
    handle = attention.q_proj.register_forward_pre_hook(lambda _, args: inputs.append(args[0].flatten(0, 1)))
    with torch.no_grad():
        llama(tokens)
    handle.remove()
    stacked = torch.cat([weight_matrix(getattr(attention, f"{name}_proj")) for name in "qkv"]).double().detach()
    outputs = stacked @ inputs[0].double().T
    report = eckart.compress(llama, "svd-llm", 0.5, tokens, overrides=["sharing=shared"])
    record = report.layers[0]
    assert (record.path, record.out_features) == ("model.layers.0.self_attn.q_proj.joint", 64)
    left = torch.linalg.svd(outputs)[0][:, : record.rank]
    expected = left @ (left.T @ stacked)
    torch.testing.assert_close(attention.q_proj.joint.dense_weight(), expected, rtol=1e-4, atol=1e-5)
