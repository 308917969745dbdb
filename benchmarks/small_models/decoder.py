"""A dense decoder whose widths are multiples of 256, as the types of 2 and 3 bits of llama.cpp need them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from small_models.language import Language, trained_on_text
from small_models.training import Schedule

VERSION = 1  # of the tokenizer and of the model
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{value:02X}>" for value in range(256)]


@dataclass(frozen=True)
class Settings:
    """All that the trained model depends on, but for its text and the machine's products."""

    schedule: Schedule = field(default_factory=lambda: Schedule(steps=1500, batch=8, rate=2e-3))
    length: int = 256
    vocabulary: int = 4096
    hidden: int = 256
    layers: int = 4
    inner: int = 768
    heads: int = 4
    seed: int = 0


QUICK = Settings(
    schedule=Schedule(steps=400, batch=8, rate=3e-3),
    length=128,
    vocabulary=512,
    hidden=64,
    layers=2,
    inner=128,
)


def make_tokenizer(text: str, vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the kind that Llama has, learnt from a text: characters that it did not see are bytes."""
    backend = Tokenizer(BPE(unk_token=SPECIAL[0], byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[*SPECIAL, *BYTES], limit_alphabet=vocabulary // 4, show_progress=False
    )
    backend.train_from_iterator(text.split("\n\n"), trainer)
    unknown, begin, end = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token=unknown, bos_token=begin, eos_token=end, pad_token=end
    )


def make_model(settings: Settings, vocabulary: int) -> PreTrainedModel:
    """Return the model with random weights, float32."""
    torch.manual_seed(settings.seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        intermediate_size=settings.inner,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    model: PreTrainedModel = LlamaForCausalLM(config)
    return model


def trained(settings: Settings, source: str | None = None, chosen: Path | None = None) -> Path:
    """Return the folder of the trained model; see :func:`small_models.language.trained_on_text`."""
    return trained_on_text(Language("decoder", VERSION, make_tokenizer, make_model), settings, source, chosen)
