from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaConfig

from tiny_models import TinyModelError, build, entries, sample_for

FORMS = {
    "masked/bert": {"input_ids", "attention_mask"},
    "seq2seq/t5": {"input_ids", "attention_mask", "decoder_input_ids"},
    "image/vit": {"pixel_values"},
    "audio/wav2vec2": {"input_values"},
    "speech/whisper": {"input_features", "attention_mask", "decoder_input_ids"},
}


@pytest.mark.parametrize("name", FORMS)
def test_samples_have_what_the_class_takes_and_depend_on_the_seed(name):
    model = build(next(entry for entry in entries([name.split("/")[0]]) if entry.name == name))
    sample, again, other = sample_for(model), sample_for(model), sample_for(model, 1)
    assert set(sample) == FORMS[name]
    assert all(torch.equal(sample[key], tensor) for key, tensor in again.items())
    assert any(not torch.equal(sample[key], tensor) for key, tensor in other.items())
    assert all(len(tensor) == 1 for tensor in sample.values())


class Odd(nn.Module):
    config = LlamaConfig()

    def forward(self, unheard_of):
        return unheard_of


def test_what_is_not_known_is_named():
    with pytest.raises(TinyModelError, match="no inputs are known for unheard_of"):
        sample_for(Odd())
