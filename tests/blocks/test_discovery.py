from __future__ import annotations

from typing import Any

import pytest
from tests.conftest import CONFIGS, make_model
from torch import nn
from transformers import PreTrainedModel

from eckart.blocks.discovery import find_block_list, find_blocks
from eckart.errors import UnsupportedModelError

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
        names = [sorted(t.name.split(".")[-1] for t in group.linears) for group in block.groups]
        assert names == [sorted(names) for names in GROUPS[kind]]
        assert all(group.runs_once for group in block.groups)
        for ref in (ref for group in block.groups for ref in group.linears):
            assert model.get_submodule(ref.path) is block.module.get_submodule(ref.name)


def test_grouped_queries_have_their_own_shapes(llama: PreTrainedModel) -> None:
    shapes = {t.name: t.shape for group in find_blocks(llama)[0].groups for t in group.linears}
    assert shapes["self_attn.q_proj"] == (32, 32)
    assert shapes["self_attn.k_proj"] == (16, 32)
    assert shapes["mlp.down_proj"] == (32, 48)


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


def test_a_block_that_is_there_twice_is_refused(llama: PreTrainedModel) -> None:
    layers = find_block_list(llama)[1]
    layers[2] = layers[0]
    with pytest.raises(
        UnsupportedModelError, match=r"model\.layers\.0 and model\.layers\.2 are one and the same block"
    ):
        find_blocks(llama)


def test_blocks_that_are_run_in_another_order_are_refused(llama: PreTrainedModel) -> None:
    layers = find_block_list(llama)[1]
    llama.model.layers = Reversed(layers)
    with pytest.raises(UnsupportedModelError, match="runs block 2 of its 3 where block 0 was expected"):
        find_blocks(llama)


class Reversed(nn.ModuleList):
    """Is looped over from its end."""

    def __getitem__(self, index: int | slice) -> Any:
        return nn.ModuleList(reversed(list(self))) if isinstance(index, slice) else super().__getitem__(index)


def test_of_lists_of_blocks_the_one_beside_the_embedding_is_taken() -> None:
    model: Any = nn.Module()
    model.text = nn.Module()
    model.text.embed = nn.Embedding(4, 4)
    model.text.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(2))
    model.text.projections = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))  # no blocks
    model.images = nn.Module()
    model.images.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8)) for _ in range(9))
    assert find_block_list(model)[0] == "images.layers"
    model.get_input_embeddings = lambda: model.text.embed
    assert find_block_list(model)[0] == "text.layers"


def test_a_linear_that_is_handed_its_input_by_name_stays(llama: PreTrainedModel) -> None:
    mlp: Any = find_block_list(llama)[1][0].mlp
    mlp.forward = lambda x: mlp.down_proj(input=mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x))
    names = [[ref.name for ref in group.linears] for group in find_blocks(llama)[0].groups]
    assert names[-1] == ["mlp.gate_proj", "mlp.up_proj"]


def test_a_block_that_is_not_run_is_refused(llama: PreTrainedModel) -> None:
    llama.config.num_hidden_layers = 2
    with pytest.raises(UnsupportedModelError, match="2 of its 3 blocks"):
        find_blocks(llama)
