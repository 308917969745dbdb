from __future__ import annotations

import copy

import pytest
import torch
from tests.cache.helpers import IDS, assert_alike, in_pieces, pair
from torch import nn
from transformers import AutoModelForCausalLM, GptOssConfig
from transformers.pytorch_utils import Conv1D

import eckart
from eckart.cache.attach import latent_cache
from eckart.cache.late_values import LateValues, in_features
from eckart.cache.latent_codes import latent_codes
from eckart.cache.sources import FactoredSource
from eckart.layers import LowRankLinear


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3", "opt", "phi3", "gpt2", "gpt-neox"])
def test_averages_of_latents_give_what_rebuilt_values_give(kind: str) -> None:
    """Biases too; where values are no outputs of a module of their own, they are rebuilt."""
    model, dense = pair(kind)
    rebuilding = copy.deepcopy(model)
    attentions = latent_cache(model).attentions
    others = latent_cache(rebuilding).attentions
    alone = kind not in ("phi3", "gpt2", "gpt-neox")
    assert all((each.late is not None) == alone for each in attentions)
    for each, other in zip(attentions, others, strict=True):
        other.rebuild_values()
        if each.late is not None:
            each.late.always = True
    found, expected = (in_pieces(each, IDS, 5, 2, 1, 1)[0] for each in (model, rebuilding))
    assert_alike(found, expected)
    assert_alike(found, in_pieces(dense, IDS, 9)[0])


def test_rounded_latents_are_not_averaged_with_new_ones() -> None:
    model, _ = pair()
    assert [each.late for each in latent_cache(model, 8).attentions] == [None] * 3


def test_weights_that_change_are_seen() -> None:
    for bits in (16, 8):
        model, _ = pair()
        for each in latent_cache(model, bits).attentions:
            assert (each.late is not None) == (bits == 16)
            if each.late is not None:
                each.late.always = True
        in_pieces(model, IDS, 5, 4)
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.v_proj.second.weight.mul_(-2)
        expected = in_pieces(model, IDS, 9)[0]
        error = (in_pieces(model, IDS, 5, 4)[0] - expected).abs().max() / expected.abs().max()
        assert error < (1e-5 if bits == 16 else 0.05)


def test_what_stands_between_attention_and_its_projection_is_seen() -> None:
    """A gate of the size of values cannot multiply latents."""
    model, dense = pair()

    def gate(module: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (args[0] * torch.linspace(0, 1, 32),)

    for each in (model, dense):
        for layer in each.model.layers:
            layer.self_attn.o_proj.register_forward_pre_hook(gate)
    assert [each.late for each in latent_cache(model).attentions] == [None] * 3
    assert_alike(in_pieces(model, IDS, 5, 4)[0], in_pieces(dense, IDS, 9)[0])


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_attention_that_does_not_sum_to_one_is_seen_in_16_bits_too() -> None:
    """Sinks take a part of it, and a bias that is added behind would be too large by that."""
    config = GptOssConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        num_experts_per_tok=1,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    eckart.compress(model, "svd", 0.35, allow_partial=True)
    model.bfloat16()
    attentions = latent_cache(model).attentions
    assert len(attentions) == 2
    assert all(each.late is None for each in attentions)


def test_when_it_pays() -> None:
    model, _ = pair()
    attention = latent_cache(model).attentions[0]
    late = attention.late
    assert late is not None
    assert (late.heads, late.size, late.width) == (2, 8, 16)
    assert late.pays(1)
    assert late.pays(10**6)  # latents narrower than a head
    layer = LowRankLinear.empty_like(nn.Linear(64, 64), 32)
    wide = LateValues("v", nn.Linear(64, 64), heads=2, size=32)
    wide.install(latent_codes([FactoredSource(layer, {"v": slice(0, 64)})], frozenset({"v"}), 16))
    assert wide.pays(1)
    narrow = LateValues("v", nn.Linear(256, 64), heads=8, size=8)
    narrow.install(latent_codes([FactoredSource(layer, {"v": slice(0, 64)})], frozenset({"v"}), 16))
    assert narrow.pays(2)
    assert not narrow.pays(3)  # 32 heads add 24 products for each new token, where a rebuilt value takes 64 x 32
    tiny = LateValues("v", nn.Linear(32, 64), heads=16, size=4)
    tiny.install(latent_codes([FactoredSource(layer, {"v": slice(0, 64)})], frozenset({"v"}), 16))
    assert not tiny.pays(1)  # attention would hold 32 numbers for each head where a value has 4
    tiny.always = True
    assert tiny.pays(1)


def test_inputs_of_all_kinds_of_layers() -> None:
    assert in_features(nn.Linear(3, 4)) == 3
    model, _ = pair("gpt2")
    assert in_features(model.transformer.h[0].attn.c_proj) == 32
    assert in_features(Conv1D(5, 7)) == 7
