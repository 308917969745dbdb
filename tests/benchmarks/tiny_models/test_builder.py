from __future__ import annotations

import pytest
import torch

from tiny_models import Entry, TinyModelError, build, entries, sample_for, tiny_config

NAMES = ("causal/qwen3_moe", "masked/bert", "seq2seq/t5", "image/vit", "speech/whisper", "image-text/qwen2_vl")


def entry(name: str) -> Entry:
    return next(entry for entry in entries([name.split("/")[0]]) if entry.name == name)


@pytest.mark.parametrize("name", NAMES)
def test_models_are_tiny_and_the_same_for_a_seed(name):
    model, again, other = build(entry(name)), build(entry(name)), build(entry(name), seed=1)
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_500_000
    assert not model.training
    weights, others = model.state_dict(), other.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in again.state_dict().items())
    assert any(not torch.equal(weights[name], tensor) for name, tensor in others.items())


def test_a_class_that_needs_what_is_not_there_says_so():
    with pytest.raises(TinyModelError, match=r"no attribute .?NoSuchModel"):
        build(Entry("causal", "llama", "NoSuchModel"))


def test_what_is_not_tiny_is_refused(monkeypatch):
    monkeypatch.setattr("tiny_models.builder.MOST_PARAMETERS", 1000)
    with pytest.raises(TinyModelError, match=r"million parameters: model\.embed_tokens"):
        build(entry("causal/llama"))


def test_an_exception_of_a_kind_goes_before_that_of_the_config():
    assert tiny_config("reformer", "causal/reformer").is_decoder
    assert not tiny_config("reformer", "masked/reformer").is_decoder


def test_a_model_of_images_and_text_is_given_both():
    model = build(entry("image-text/qwen2_vl"))
    sample = sample_for(model)
    assert {"input_ids", "pixel_values", "image_grid_thw"} <= set(sample)
    assert (sample["input_ids"] == model.config.image_token_id).sum() == 4  # 16 patches, merged by fours
    assert set(sample_for(model, text=True)) == {"input_ids", "attention_mask"}
