from __future__ import annotations

from collections import Counter

import pytest
from tiny_models.classes import KINDS, Entry, entries
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES


@pytest.fixture(scope="module")
def found() -> list[Entry]:
    return entries()


def test_each_class_is_there_once(found):
    assert {entry.kind for entry in found} == set(KINDS)
    pairs = Counter((CONFIG_MAPPING_NAMES[entry.model_type], entry.model_class) for entry in found)
    assert [pair for pair, times in pairs.items() if times > 1] == []
    assert len({entry.name for entry in found}) == len(found)


def test_the_kinds_are_those_of_the_mappings(found):
    names = {entry.name: entry.model_class for entry in found}
    assert names["causal/llama"] == "LlamaForCausalLM"
    assert names["masked/bert"] == "BertForMaskedLM"
    assert names["seq2seq/t5"] == "T5ForConditionalGeneration"
    assert names["image/vit"] == "ViTForImageClassification"
    assert "classification/bert" not in names  # it has a masked language model
    assert "other/llama" not in names  # it has other kinds


def test_a_config_goes_by_its_own_name(found):
    types = {entry.model_class: entry.model_type for entry in found if entry.kind == "causal"}
    assert types["GPT2LMHeadModel"] == "gpt2"  # and not by that of another model with the same class


def test_kinds_can_be_chosen():
    assert {entry.kind for entry in entries(["audio", "masked"])} == {"audio", "masked"}
