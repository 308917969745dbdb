"""Which tables a model has, and that they go in and out of it."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import CONFIGS, make_model
from torch import nn
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
)

from eckart.layers import QuantizedEmbedding, QuantizedLinear, TiedHead, fill_table
from eckart.layers.vocabulary import Vocabulary, find_vocabulary, original_tables, place_tables, take_tables_back
from eckart.maths.quantization import QuantScheme

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


def rounded(model: PreTrainedModel, bits: int = 8) -> Vocabulary:
    found = find_vocabulary(model)
    assert found is not None
    weights = [model.get_submodule(path).weight for path in found.paths]
    for table, weight in zip(
        place_tables(model, found, QuantScheme(bits, 8 if bits < 8 else None)), weights, strict=True
    ):
        fill_table(table, weight)
    return found


@pytest.mark.parametrize("kind", CONFIGS)
def test_any_decoder_s_tables_are_found_rounded_and_taken_back(kind: str, tokens: torch.Tensor) -> None:
    model = make_model(kind)
    names = {name: tensor.shape for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        before = model(tokens).logits
        found = rounded(model)
        assert found.tied is bool(model.config.tie_word_embeddings)
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        assert isinstance(embedding, QuantizedEmbedding)
        assert isinstance(head, TiedHead if found.tied else QuantizedLinear)
        after = model(tokens).logits
        model.tie_weights()
        assert torch.equal(model(tokens).logits, after)
        assert 0 < (after - before).norm() < 0.05 * before.norm()
        take_tables_back(model)
        if not found.tied:
            assert found.head is not None
            own = model.get_submodule(found.head)
            assert isinstance(own, QuantizedLinear)
            model.set_submodule(found.head, own.to_dense())
        torch.testing.assert_close(model(tokens).logits, after)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == names
    if found.tied:
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_what_is_tried_leaves_no_trace(tokens: torch.Tensor) -> None:
    model = make_model("gemma3")
    found = find_vocabulary(model)
    assert found is not None
    assert found.tied
    modules, ties = dict(model.named_modules()), dict(model.all_tied_weights_keys)
    before = model(tokens).logits
    with original_tables(model, found):
        rounded(model, 2)
        assert not torch.equal(model(tokens).logits, before)
    assert dict(model.named_modules()) == modules
    assert model.all_tied_weights_keys == ties
    assert "_tied_weights_keys" not in vars(model)
    assert torch.equal(model(tokens).logits, before)


def test_heads_with_a_bias_and_models_without_a_head() -> None:
    torch.manual_seed(0)
    masked = BertForMaskedLM(BertConfig(vocab_size=40, **SMALL)).eval()
    ids = torch.randint(40, (2, 6))
    with torch.no_grad():
        masked.get_output_embeddings().bias.normal_()
        before = masked(ids).logits
        found = rounded(masked)
        assert found.tied
        assert found.tables == 1
        after = masked(ids).logits
    assert 0 < (after - before).norm() < 0.05 * before.norm()
    base = AutoModel.from_config(BertConfig(vocab_size=40, **SMALL))
    alone = find_vocabulary(base)
    assert alone is not None
    assert alone.head is None
    assert not alone.tied


def test_tables_that_others_share_or_that_are_none_stay() -> None:
    assert find_vocabulary(AutoModel.from_config(ViTConfig(image_size=16, patch_size=8, **SMALL))) is None
    config = T5Config(vocab_size=40, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2)
    assert find_vocabulary(T5ForConditionalGeneration(config)) is None
    model = make_model("llama")
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    embedding.max_norm = 1.0
    assert find_vocabulary(model) is None


def test_numbers_are_counted_once_for_each_table() -> None:
    assert Vocabulary("a", "b", True, (10, 4)).parameters == 40
    apart = Vocabulary("a", "b", False, (10, 4))
    assert (apart.parameters, apart.paths) == (80, ["a", "b"])
    assert apart.without({"b"}) == Vocabulary("a", None, False, (10, 4))
    assert apart.without({"c"}) == apart
