"""Factors and codes multiplied back."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import eckart
from eckart.errors import CheckpointError
from eckart.runtimes.dense import (
    as_float32,
    bytes_of,
    check_mergeable,
    is_compressed,
    merge_layers,
    merged_layers,
    write_dense,
)


def test_merging_gives_dense_layers_of_the_same_logits(llama: PreTrainedModel, tokens: Tensor, tmp_path: Path) -> None:
    assert not is_compressed(llama)
    assert merged_layers(llama) == 0
    dense_bytes = bytes_of(llama)
    eckart.compress(llama, "svd-llm", 0.6, tokens)
    assert is_compressed(llama)
    assert merged_layers(llama) == 21
    assert bytes_of(llama) < dense_bytes
    with torch.no_grad():
        expected = llama(tokens[:1]).logits
        merged = merge_layers(llama, "it")
        torch.testing.assert_close(merged(tokens[:1]).logits, expected)
    assert merged_layers(merged) == 0
    assert bytes_of(merged) == dense_bytes
    write_dense(merged, tmp_path / "dense")
    assert not is_compressed(eckart.load_model(tmp_path / "dense"))


def test_a_layer_of_few_bits_counts_once(llama: PreTrainedModel, tokens: Tensor) -> None:
    eckart.compress(llama, "svd-llm", 0.4, tokens, overrides=["precision=8-bit"])
    assert merged_layers(llama) == 21


def test_a_bias_without_a_place_is_refused(llama: PreTrainedModel, tokens: Tensor) -> None:
    eckart.compress(llama, "svd-llm", 0.6, tokens, overrides=["objective.affine=true"])
    with pytest.raises(CheckpointError, match="it cannot be merged"):
        check_mergeable(llama, "it")


def test_float32_is_a_copy_only_where_it_must_be(llama: PreTrainedModel) -> None:
    assert as_float32(llama) is llama
    half = copy.deepcopy(llama).to(torch.bfloat16)
    assert as_float32(half).dtype == torch.float32
    assert half.dtype == torch.bfloat16
