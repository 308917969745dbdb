from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.conftest import VOCABULARY, byte_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A random model on disk, with a short context."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # else blocks hardly change their input, and no model is worse than another
    model.save_pretrained(tmp_path / "source")
    byte_tokenizer().save_pretrained(tmp_path / "source")
    return tmp_path / "source"
