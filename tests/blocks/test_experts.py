"""Which expert of which mixture a group is in, of classes that hand their experts tokens in many ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as t
from tests.listed import ListedConfig, ListedForCausalLM
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaMLP

from eckart.blocks.block import Block
from eckart.blocks.discovery import find_blocks
from eckart.blocks.expert_stacks import expand
from eckart.blocks.onload import ResidentWeights

MODEL: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
SWITCH: dict[str, Any] = {
    "vocab_size": 256,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "num_experts": 4,
    "num_sparse_encoder_layers": 1,
    "num_decoder_layers": 2,
    "num_sparse_decoder_layers": 1,
}
pytestmark = pytest.mark.filterwarnings("ignore:Casting complex values")  # of Llama 4's rotations
JETMOE: dict[str, Any] = {"kv_channels": 8, "num_local_experts": 4, "num_experts_per_tok": 2}


# What a human reads off the source: the mixture, and an expert's first and last linears; the last block is looked at.
MIXTURES: dict[str, tuple[Callable[[], PreTrainedModel], str, str, str]] = {
    "handed the routing": (
        lambda: t.MixtralForCausalLM(t.MixtralConfig(**MODEL, num_local_experts=4)),
        "mlp.experts",
        "gate_up_proj.2",
        "down_proj.2",
    ),
    "handed to a part of it": (
        lambda: t.DbrxForCausalLM(
            t.DbrxConfig(
                d_model=32,
                n_heads=4,
                n_layers=2,
                max_seq_len=64,
                vocab_size=256,
                attn_config={"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
                ffn_config={"ffn_hidden_size": 48},
            )
        ),
        "ffn.experts",
        "mlp.w1.2",
        "mlp.w2.2",
    ),
    "tokens once for each expert": (
        lambda: t.Llama4ForCausalLM(
            t.Llama4TextConfig(**MODEL, num_local_experts=4, intermediate_size_mlp=48, head_dim=8)
        ),
        "feed_forward",
        "experts.gate_up_proj.2",
        "experts.down_proj.2",
    ),
    "tokens that were sorted": (
        lambda: t.JetMoeForCausalLM(t.JetMoeConfig(**{**MODEL, **JETMOE})),
        "mlp",
        "input_linear.weight.2",
        "output_linear.weight.2",
    ),
    "of attention": (
        lambda: t.JetMoeForCausalLM(t.JetMoeConfig(**{**MODEL, **JETMOE})),
        "self_attention",
        "experts.input_linear.weight.2",
        "experts.output_linear.weight.2",
    ),
    "in a list": (
        lambda: ListedForCausalLM(ListedConfig(**MODEL, experts=4)),
        "mlp",
        "experts.2.gate_proj",
        "experts.2.down_proj",
    ),
    "in a dictionary": (
        lambda: t.SwitchTransformersForConditionalGeneration(t.SwitchTransformersConfig(**SWITCH)),
        "layer.2.mlp.experts",
        "expert_2.wi",
        "expert_2.wo",
    ),
}


def blocks_of(model: PreTrainedModel) -> list[Block]:
    model.eval()
    expand(model, ResidentWeights())
    return find_blocks(model)


@pytest.mark.parametrize("kind", MIXTURES)
def test_the_mixture_of_each_class_is_found(kind: str) -> None:
    make, mixture, first, last = MIXTURES[kind]
    torch.manual_seed(0)
    block = blocks_of(make())[-1]
    routed = {group.linears[0].name: group for group in block.groups if group.routed}
    assert all(group.expert is not None for group in routed.values())
    assert mixture in block.mixtures
    one, other = (routed[f"{mixture}.{name}"] for name in (first, last))
    assert one.expert is not None
    assert other.expert is not None
    assert (one.expert.mixture, one.expert.inner) == (mixture, False)
    assert (other.expert.mixture, other.expert.inner) == (mixture, True)
    assert one.expert.path == other.expert.path
    assert one.expert.last == other.expert.last == f"{mixture}.{last}"
    # The groups of one stage come together, and all of the one before in front of them.
    stages = [group.stage for group in block.groups if group.expert is not None and group.expert.mixture == mixture]
    assert stages == [one.stage] * 4 + [other.stage] * 4
    inside = {ref.name for ref in block.linears_in_mixtures}
    assert {ref.name for group in routed.values() for ref in group.linears} <= inside
    assert not any(name.startswith("self_attn") for name in inside)


def test_a_block_without_experts_has_no_mixture() -> None:
    for block in blocks_of(t.LlamaForCausalLM(t.LlamaConfig(**MODEL))):
        assert block.mixtures == ()
        assert block.linears_in_mixtures == []


def test_parts_of_several_sizes_are_no_experts_of_one_mixture() -> None:
    model = ListedForCausalLM(ListedConfig(**MODEL, experts=4))
    for layer in model.model.layers:
        layer.mlp.experts[3] = LlamaMLP(ListedConfig(**{**MODEL, "intermediate_size": 24}))
    for block in blocks_of(model):
        assert block.mixtures == ()
        routed = {ref.name for group in block.groups if group.routed for ref in group.linears}
        assert "mlp.experts.3.down_proj" in routed
