from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tests.conftest import CONFIGS, make_model
from torch import nn
from transformers import DbrxConfig, DbrxForCausalLM, MixtralConfig, MixtralForCausalLM, PreTrainedModel

import eckart
from eckart.blocks.discovery import find_blocks
from eckart.blocks.expert_stacks import contract, expand
from eckart.blocks.fuse import fusable, fusable_experts, fuse, unfuse
from eckart.blocks.onload import ResidentWeights
from eckart.checkpoint.source import open_model
from eckart.errors import EckartError
from eckart.layers import fused_layers, weight_matrix
from eckart.maths.prior import PRIOR_TOKENS

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


SIZES = {"vocab_size": 256, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}


def mixture(kind: str) -> PreTrainedModel:
    """Return a mixture of four experts, whose gate and up are one matrix, or two."""
    torch.manual_seed(0)
    if kind == "mixtral":
        return MixtralForCausalLM(MixtralConfig(**SIZES, **HEADS, num_local_experts=4)).eval()
    sizes = {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "vocab_size": 256}
    attention = {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0}
    return DbrxForCausalLM(DbrxConfig(**sizes, attn_config=attention, ffn_config={"ffn_hidden_size": 24})).eval()


@pytest.mark.parametrize(("kind", "linears"), [("mixtral", 4), ("dbrx", 8)])
@pytest.mark.parametrize("where", ["memory", "files"])
def test_experts_joined_and_taken_apart(
    kind: str, linears: int, where: str, tmp_path: Path, tokens: torch.Tensor
) -> None:
    expected = mixture(kind)
    expected.save_pretrained(tmp_path / "model")
    model, weights = (
        (mixture(kind), ResidentWeights())
        if where == "memory"
        else open_model(tmp_path / "model", tmp_path / "offload")
    )
    expand(model, weights)
    before = find_blocks(model, weights)
    fusions = fusable_experts(before)
    assert [(len(fusion.linears), fusion.runs) for fusion in fusions] == [(linears, 4)] * 2
    fuse(model, fusions, weights)
    (first, second) = find_blocks(model, weights)
    (group,) = [group for group in first.groups if group.linears[0].name.endswith(".joint")]
    (ref,) = group.linears
    assert (group.routed, group.runs_once, ref.runs, ref.shape) == (True, False, 4, (4 * 48, 32))
    assert sum(ref.size for ref in second.linears) == sum(ref.size for ref in before[1].linears)
    with weights.onload(model, torch.device("cpu")), torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, expected(tokens).logits)
    unfuse(model, fused_layers(model), weights)
    contract(model, weights)
    with weights.onload(model, torch.device("cpu")), torch.no_grad():
        assert torch.equal(model(tokens).logits, expected(tokens).logits)
        state = model.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in expected.state_dict().items())


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_a_basis_of_experts_is_that_of_the_tokens_of_all(tokens: torch.Tensor) -> None:
    """By plain loops in float64: the basis, and what each implementation of transformers makes of it."""
    model = mixture("mixtral")
    moe, seen = model.model.layers[0].mlp, []
    handle = moe.experts.register_forward_pre_hook(lambda _, args: seen.append(args))
    with torch.no_grad():
        model(tokens)
    handle.remove()
    hidden, chosen, shares = seen[0]
    stacked = moe.experts.gate_up_proj.detach().double().flatten(0, 1)
    moments = torch.zeros(4, 32, 32, dtype=torch.float64)  # of each expert, tokens weighed by the router
    for token, (experts, weights) in enumerate(zip(chosen.tolist(), shares.double(), strict=True)):
        for expert, weight in zip(experts, weights, strict=True):
            moments[expert] += weight**2 * torch.outer(hidden[token].double(), hidden[token].double())
    moments += PRIOR_TOKENS * 32 / chosen.numel() * moments.sum(0)
    report = eckart.compress(model, "svd-llm", 0.6, tokens, overrides=["sharing=experts"])
    (record,) = [layer for layer in report.layers if layer.path.endswith("0.mlp.experts.gate_up_proj.0.joint")]
    assert (record.out_features, record.in_features) == (4 * 48, 32)
    joint = moe.experts.gate_up_proj.layers[0].joint
    left = torch.linalg.svd(stacked @ torch.linalg.cholesky(moments.sum(0)))[0][:, : record.rank]
    basis = left.T @ stacked
    for weight, moment, found in zip(stacked.split(48), moments, joint.dense_weight().split(48), strict=True):
        own = torch.linalg.solve(basis @ moment @ basis.T, basis @ moment @ weight.T).T
        torch.testing.assert_close(found, own @ basis, rtol=1e-3, atol=1e-4)
    expected = torch.zeros_like(hidden, dtype=torch.float64)
    first, second = joint.first.weight.double(), joint.second.weight.double()
    downs = [layer.dense_weight() for layer in moe.experts.down_proj.layers]
    for token, (experts, weights) in enumerate(zip(chosen.tolist(), shares.double(), strict=True)):
        for expert, weight in zip(experts, weights, strict=True):
            gate, up = (second[48 * expert : 48 * expert + 48] @ (first @ hidden[token].double())).chunk(2)
            expected[token] += weight * (downs[expert] @ (nn.functional.silu(gate) * up))
    for implementation in ("eager", "grouped_mm", "batched_mm"):
        model.set_experts_implementation(implementation)
        with torch.no_grad():
            found = moe.experts(hidden, chosen, shares)
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)
