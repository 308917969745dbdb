"""Tied tensors of a model without its weights; that the whole model is then the base library's, see
tests/checkpoint/test_odd_checkpoints.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import CONFIGS
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from eckart.checkpoint.ties import settle_ties

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Index = dict[str, dict[str, Any]]


@pytest.fixture
def model() -> PreTrainedModel:
    """A model whose head is tied to its embedding, taken apart as where no weights were read."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS["qwen2"]())
    model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.model.embed_tokens.weight))
    assert model.all_tied_weights_keys == {HEAD: EMBEDDING}
    return model


def place(name: str, file: str = "m.safetensors") -> dict[str, Any]:
    return {"safetensors_file": file, "weight_name": name}


def never(name: str) -> Tensor:
    raise AssertionError(f"{name} was read")


@pytest.mark.parametrize("name", [EMBEDDING, HEAD])
def test_what_is_stored_once_stands_for_both(name: str, model: PreTrainedModel) -> None:
    index: Index = {name: place(name)}
    settle_ties(model, index, never)
    assert index == {EMBEDDING: place(name), HEAD: place(name)}
    assert model.all_tied_weights_keys == {HEAD: EMBEDDING}


def test_one_place_under_two_names_is_not_read(model: PreTrainedModel) -> None:
    index: Index = {EMBEDDING: place(EMBEDDING), HEAD: place(EMBEDDING)}
    settle_ties(model, index, never)
    assert model.all_tied_weights_keys == {HEAD: EMBEDDING}


@pytest.mark.parametrize(
    ("head", "tied"),
    [(torch.ones(4, 2), True), (torch.zeros(4, 2), False), (torch.ones(2, 4), False)],
    ids=["alike", "other numbers", "another shape"],
)
@pytest.mark.parametrize("file", ["m.safetensors", "other.safetensors"])
def test_what_is_stored_twice_is_tied_if_it_is_alike(
    head: Tensor, tied: bool, file: str, model: PreTrainedModel
) -> None:
    index: Index = {EMBEDDING: place(EMBEDDING), HEAD: place(HEAD, file)}
    settle_ties(model, index, {EMBEDDING: torch.ones(4, 2), HEAD: head}.__getitem__)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert (HEAD in model.all_tied_weights_keys) == tied


def test_what_is_not_stored_at_all_is_left_to_others(model: PreTrainedModel) -> None:
    index: Index = {}
    settle_ties(model, index, never)
    assert index == {}
