from __future__ import annotations

import pytest
import torch
from tests.conftest import CONFIGS, make_model
from torch import nn
from transformers import PreTrainedModel

from eckart.blocks import (
    capture_calls,
    check_calls_are_independent_of_tokens,
    find_block_list,
    find_blocks,
    observe_inputs,
)
from eckart.errors import UnsupportedModelError

CPU = torch.device("cpu")

# What a human reads off the source of each architecture: linears by the input that they share, in order.
GROUPS = {
    "llama": [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]],
    "qwen2": [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]],
    "gemma3": [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]],
    "opt": [["q_proj", "k_proj", "v_proj"], ["out_proj"], ["fc1"], ["fc2"]],
    "phi3": [["qkv_proj"], ["o_proj"], ["gate_up_proj"], ["down_proj"]],
    "gpt2": [["c_attn"], ["c_proj"], ["c_fc"], ["c_proj"]],
    "gpt-neox": [["query_key_value"], ["dense"], ["dense_h_to_4h"], ["dense_4h_to_h"]],
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_groups_are_found_in_every_architecture(kind: str) -> None:
    model = make_model(kind)
    blocks = find_blocks(model)
    assert len(blocks) == model.config.num_hidden_layers
    for block in blocks:
        names = [sorted(t.name.split(".")[-1] for t in group.targets) for group in block.groups]
        assert names == [sorted(names) for names in GROUPS[kind]]
        assert all(group.runs_once for group in block.groups)
        for target in (target for group in block.groups for target in group.targets):
            assert model.get_submodule(target.path) is block.module.get_submodule(target.name)


def test_grouped_queries_have_their_own_shapes(llama: PreTrainedModel) -> None:
    shapes = {t.name: t.shape for group in find_blocks(llama)[0].groups for t in group.targets}
    assert shapes["self_attn.q_proj"] == (32, 32)
    assert shapes["self_attn.k_proj"] == (16, 32)
    assert shapes["mlp.down_proj"] == (32, 48)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("batch", [1, 3])
def test_calling_the_blocks_one_by_one_equals_the_model(kind: str, batch: int, tokens: torch.Tensor) -> None:
    model = make_model(kind)
    ids = tokens[:batch]
    hidden, calls = capture_calls(model, ids)
    with torch.no_grad():
        reference = model.base_model(ids, output_hidden_states=True).hidden_states
        for index, (block, call) in enumerate(zip(find_block_list(model)[1], calls, strict=True)):
            torch.testing.assert_close(hidden, reference[index], rtol=0, atol=0)
            hidden = call(block, hidden)


def test_capturing_leaves_the_model_as_it_was(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    with torch.no_grad():
        before = llama(tokens).logits
        capture_calls(llama, tokens)
        assert torch.equal(llama(tokens).logits, before)
    assert all("forward" not in vars(block) for block in find_block_list(llama)[1])


def test_observed_inputs_are_what_the_linears_are_handed(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    block = find_blocks(llama)[0]
    hidden, calls = capture_calls(llama, tokens)
    seen: dict[str, torch.Tensor] = {}
    handles = [
        block.module.get_submodule(t.name).register_forward_hook(
            lambda module, args, result, name=t.name: seen.update({name: args[0]})
        )
        for group in block.groups
        for t in group.targets
    ]
    with torch.no_grad():
        expected_output = calls[0](block.module, hidden)
    for handle in handles:
        handle.remove()
    energies: dict = {}
    inputs, output = observe_inputs(block.module, calls[0], hidden, block.groups, output_energies=energies)
    assert torch.equal(output, expected_output)
    for group in block.groups:
        for target in group.targets:
            assert torch.equal(inputs[group], seen[target.name].flatten(0, 1))
            weight = block.module.get_submodule(target.name).weight.detach()
            assert energies[target] == pytest.approx(float((inputs[group] @ weight.T).square().sum()), rel=1e-5)
        stopped, nothing = observe_inputs(block.module, calls[0], hidden, (group,), stop=True)
        assert torch.equal(stopped[group], inputs[group])
        assert nothing is None
    assert not any(module._forward_pre_hooks for module in block.module.modules())


def test_a_model_without_a_list_of_blocks_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="no list of blocks"):
        find_block_list(nn.Sequential(nn.Linear(2, 2)))


def test_the_experts_inside_a_block_are_not_taken_for_blocks() -> None:
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Module() for _ in range(2))
    for layer in model.layers:
        layer.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(8))
    assert find_block_list(model)[0] == "layers"


def test_a_layer_that_two_blocks_share_is_refused(llama: PreTrainedModel) -> None:
    layers = find_block_list(llama)[1]
    layers[1].mlp = layers[0].mlp
    with pytest.raises(UnsupportedModelError, match="one and the same layer"):
        find_blocks(llama)


def test_a_block_that_is_not_run_is_refused(llama: PreTrainedModel) -> None:
    llama.config.num_hidden_layers = 2
    with pytest.raises(UnsupportedModelError, match="2 of its 3 blocks"):
        find_blocks(llama)


def test_a_call_that_depends_on_the_text_is_refused(llama: PreTrainedModel) -> None:
    check_calls_are_independent_of_tokens(llama, 16, CPU)
    decoder = llama.model
    layer = decoder.layers[1]
    plain = layer.forward
    layer.forward = lambda hidden, **kwargs: plain(hidden, **{k: v for k, v in kwargs.items() if k != "extra"})
    embed = decoder.embed_tokens
    original_call = type(layer).__call__

    class Layer(type(layer)):  # type: ignore[misc]
        def __call__(self, hidden: torch.Tensor, **kwargs: object) -> torch.Tensor:
            return original_call(self, hidden, extra=embed.last, **kwargs)

    embed.register_forward_hook(lambda module, args, result: setattr(module, "last", result.detach()))
    layer.__class__ = Layer
    with pytest.raises(UnsupportedModelError, match="'extra', which depends on the text"):
        check_calls_are_independent_of_tokens(llama, 16, CPU)
