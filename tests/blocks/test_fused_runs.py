from __future__ import annotations

import copy

import pytest
import torch
from tests.methods.sensitivity.helpers import original_of
from transformers import DbrxConfig, DbrxForCausalLM, MixtralConfig, MixtralForCausalLM, PreTrainedModel

from eckart.blocks.block import Group
from eckart.blocks.discovery import find_blocks
from eckart.blocks.expert_stacks import expand
from eckart.blocks.fuse import fusable_experts, fuse
from eckart.blocks.fused_runs import put_together, with_runs
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.passes import input_moments
from eckart.blocks.routed_passes import routed_moments
from eckart.maths.moments import Moments

SIZES = {"vocab_size": 256, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 1}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}


def mixture(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if kind == "mixtral":
        model: PreTrainedModel = MixtralForCausalLM(MixtralConfig(**SIZES, **HEADS, num_local_experts=4)).eval()
    else:
        sizes = {"d_model": 16, "n_heads": 2, "n_layers": 1, "max_seq_len": 64, "vocab_size": 256}
        attention = {"kv_n_heads": 1, "rope_theta": 1e4, "clip_qkv": 8.0}
        experts = {"ffn_hidden_size": 12, "moe_num_experts": 4, "moe_top_k": 2}
        model = DbrxForCausalLM(DbrxConfig(**sizes, attn_config=attention, ffn_config=experts)).eval()
    expand(model, ResidentWeights())
    return model


def fused(model: PreTrainedModel) -> PreTrainedModel:
    together = copy.deepcopy(model)
    fuse(together, fusable_experts(find_blocks(together)), ResidentWeights())
    return together


def firsts(groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """Return the groups of the first linears of experts."""
    return tuple(group for group in groups if group.family is not None)


def joint(groups: tuple[Group, ...]) -> Group:
    (found,) = [group for group in groups if group.parts]
    return found


@pytest.mark.parametrize("kind", ["mixtral", "dbrx"])
def test_each_part_is_the_expert_that_the_groups_were(kind: str) -> None:
    model = mixture(kind)
    (before,), (after,) = find_blocks(model), find_blocks(fused(model))
    apart, whole = firsts(before.groups), joint(after.groups)
    assert len(whole.linears) == 1
    assert whole.linears[0].runs == 4
    assert whole.apart == whole.parts
    assert [part.linears[0].name for part in whole.parts] == [group.linears[0].name for group in apart]
    assert [part.expert for part in whole.parts] == [group.expert for group in apart]
    assert all(part.expert is not None and not part.expert.inner for part in whole.parts)
    downs = {
        group.linears[0].name: group.expert
        for group in before.groups
        if group.linears[0].name not in {ref.name for group in apart for ref in group.linears}
    }
    assert {group.linears[0].name: group.expert for group in after.groups if not group.parts} == downs
    assert after.mixtures == before.mixtures


@pytest.mark.parametrize("kind", ["mixtral", "dbrx"])
@pytest.mark.parametrize("paired", [False, True])
def test_moments_are_those_of_the_experts_and_their_sums(kind: str, paired: bool, tokens: torch.Tensor) -> None:
    model = mixture(kind)
    found: list[dict[Group, Moments]] = []
    for each in (model, fused(model)):
        original = original_of(each, tokens)
        front, run = original.forward().fronts[0], original.block_pass(0)
        groups = original.blocks[0].groups
        chosen = firsts(groups) or (joint(groups),)
        found.append(
            routed_moments(run, chosen, front, {}, {}, paired=True) if paired else input_moments(run, chosen, front)
        )
    runs, (whole,) = list(found[0].values()), found[1].values()
    assert [known.tokens for known in whole.runs] == pytest.approx([known.tokens for known in runs])
    for known, alone in zip(whole.runs, runs, strict=True):
        torch.testing.assert_close(known.second_moment, alone.second_moment)
    torch.testing.assert_close(whole.second_moment, sum(alone.second_moment for alone in runs))
    assert whole.tokens == pytest.approx(sum(run.tokens for run in runs))
    assert (whole.shift is None) is not paired


def test_groups_without_several_runs_stay_as_they_are() -> None:
    model = mixture("mixtral")
    (block,) = find_blocks(model)
    groups = tuple(group for group in block.groups)
    assert with_runs(block.module, groups, lambda apart: apart[::-1]) == groups[::-1]
    moments = {group: Moments.zeros(3, paired=False, device=torch.device("cpu")) for group in groups}
    assert put_together(groups, moments) == moments
    assert groups[0].apart == (groups[0],)
