from __future__ import annotations

import math

import torch
from coverage_case import block_matrices, disk_bytes, largest_difference, outputs_of, used_parameters
from safetensors.torch import save_file

from tiny_models import build, entries, sample_for

ALL = {entry.name: entry for entry in entries(["causal"])}


def test_matrices_of_blocks_are_linears_and_stacks_of_experts():
    names = {name for name, _ in block_matrices(build(ALL["causal/mixtral"]))}
    experts = {f"model.layers.{layer}.mlp.experts.{name}" for layer in (0, 1) for name in ("gate_up_proj", "down_proj")}
    assert experts < names
    assert {name.split(".")[-1] for name in names - experts} == {"weight"}
    assert len(names - experts) == 2 * 4  # the attention of two blocks; routers, norms and embeddings are no part


def test_what_a_decoder_is_not_given_is_not_used():
    model = build(ALL["causal/bart"])
    used = used_parameters(model, sample_for(model, text=True))
    assert "model.decoder.layers.0.self_attn.q_proj.weight" in used
    assert "model.decoder.layers.0.encoder_attn.q_proj.weight" not in used
    assert all(parameter.grad is None for parameter in model.parameters())


def test_outputs_are_the_same_each_time_and_hold_no_caches():
    model = build(ALL["causal/llama"])
    sample = sample_for(model, text=True)
    first, second = outputs_of(model, sample), outputs_of(model, sample)
    assert [tuple(tensor.shape) for tensor in first] == [(1, 16, 256)]
    assert largest_difference(first, second) == 0


def test_differences_are_relative_and_infinite_where_shapes_or_numbers_break():
    one = torch.tensor([1.0, -4.0, -math.inf])
    assert largest_difference([one], [one + torch.tensor([0.0, 1.0, 0.0])]) == 0.25
    assert largest_difference([one], [one[:2]]) == math.inf
    assert largest_difference([one], [torch.tensor([1.0, math.nan, -math.inf])]) == math.inf


def test_bytes_on_disk_are_those_of_16_bits(tmp_path):
    tensors = {"a": torch.zeros(3, 5), "b": torch.zeros(7, dtype=torch.int8), "c": torch.zeros(2, dtype=torch.int64)}
    save_file(tensors, tmp_path / "model.safetensors")
    assert disk_bytes(tmp_path) == 15 * 2 + 7 + 2 * 8
