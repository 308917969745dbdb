"""Tiny random models of all kinds with their processors, made on the spot: no hub, no files of others."""

from __future__ import annotations

import json
import struct
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

SPECIALS = ("<pad>", "<s>", "</s>", "<mask>", "<image>", "[CLS]", "[SEP]", "<unk>")
VOCABULARY = 256 + len(SPECIALS)
PAD, START, END, MASK, IMAGE = range(256, 261)
SIZE = 16  # pixels on a side
RATE = 16000
NAMES = {0: "circle", 1: "square", 2: "tri_angle"}
CHAT = (
    "{% for m in messages %}<s>{{ m['role'] }}:{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}</s>{% endfor %}{% if add_generation_prompt %}<s>assistant:{% endif %}"
)
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def tokenizer(around: str | None = None, chat: str | None = None) -> PreTrainedTokenizerFast:
    """Return one token a byte and some special ones; ``around`` is a template such as ``[CLS] $A [SEP]``."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {name: i for i, name in enumerate([*alphabet, *SPECIALS])}
    backend = Tokenizer(BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIALS))
    if around is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=around, special_tokens=[(name, vocab[name]) for name in SPECIALS if name in around]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        mask_token="<mask>",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        chat_template=chat,
    )


def llava(chat: str | None = CHAT) -> tuple[PreTrainedModel, Any]:
    """Return a language model that reads images of 16 patches."""
    config = LlavaConfig(
        text_config=LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, max_position_embeddings=256, **TEXT),
        vision_config=CLIPVisionConfig(image_size=SIZE, patch_size=4, **TEXT),
        image_token_index=IMAGE,
        pad_token_id=PAD,
        vision_feature_layer=-1,
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    processor = LlavaProcessor(
        images,
        tokenizer(),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat,
    )
    return LlavaForConditionalGeneration(config), processor


def clip() -> tuple[PreTrainedModel, Any]:
    """Return towers of texts and of images."""
    config = CLIPConfig(
        text_config={
            **TEXT,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 64,
            "eos_token_id": END,
            "bos_token_id": START,
            "pad_token_id": PAD,
        },
        vision_config={**TEXT, "image_size": SIZE, "patch_size": 4},
        projection_dim=24,
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    return CLIPModel(config), CLIPProcessor(images, tokenizer("<s> $A </s>"))


def vit() -> tuple[PreTrainedModel, Any]:
    """Return a classifier of images."""
    config = ViTConfig(image_size=SIZE, patch_size=4, id2label=NAMES, label2id={v: k for k, v in NAMES.items()}, **TEXT)
    return ViTForImageClassification(config), ViTImageProcessorPil(size={"height": SIZE, "width": SIZE})


def _bert(model_class: Callable[[BertConfig], PreTrainedModel]) -> tuple[PreTrainedModel, Any]:
    names = {"id2label": NAMES, "label2id": {v: k for k, v in NAMES.items()}}
    config = BertConfig(vocab_size=VOCABULARY, max_position_embeddings=128, pad_token_id=PAD, **TEXT, **names)
    return model_class(config), tokenizer("[CLS] $A [SEP]")


def t5() -> tuple[PreTrainedModel, Any]:
    """Return an encoder-decoder of text."""
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_ff=48,
        d_kv=8,
        num_layers=2,
        num_heads=4,
        pad_token_id=PAD,
        eos_token_id=END,
        decoder_start_token_id=PAD,
    )
    return T5ForConditionalGeneration(config), tokenizer("$A </s>")


def whisper() -> tuple[PreTrainedModel, Any]:
    """Return an encoder-decoder from sound to text, which hears one second."""
    config = WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_mel_bins=16,
        max_source_positions=50,
        max_target_positions=64,
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=END,
        decoder_start_token_id=START,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    sounds = WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    return WhisperForConditionalGeneration(config), WhisperProcessor(sounds, tokenizer("$A </s>"))


def _wav2vec2(model_class: Callable[[Wav2Vec2Config], PreTrainedModel]) -> PreTrainedModel:
    config = Wav2Vec2Config(
        vocab_size=VOCABULARY,
        conv_dim=(16, 16, 16),
        conv_kernel=(10, 8, 8),
        conv_stride=(5, 8, 8),
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        pad_token_id=PAD,
        id2label=NAMES,
        label2id={v: k for k, v in NAMES.items()},
        apply_spec_augment=False,
        **TEXT,
    )
    return model_class(config)


def llama() -> tuple[PreTrainedModel, Any]:
    """Return a decoder of text."""
    config = LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, max_position_embeddings=256, **TEXT)
    return LlamaForCausalLM(config), tokenizer("<s> $A", chat=CHAT)


MAKERS: dict[str, Callable[[], tuple[PreTrainedModel, Any]]] = {
    "llama": llama,
    "llava": llava,
    "clip": clip,
    "vit": vit,
    "bert-masked": lambda: _bert(BertForMaskedLM),
    "bert-classifier": lambda: _bert(BertForSequenceClassification),
    "bert": lambda: _bert(BertModel),
    "t5": t5,
    "whisper": whisper,
    "wav2vec2-ctc": lambda: (_wav2vec2(Wav2Vec2ForCTC), Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer())),
    "wav2vec2-classifier": lambda: (_wav2vec2(Wav2Vec2ForSequenceClassification), Wav2Vec2FeatureExtractor()),
}


def make(name: str, seed: int = 0) -> tuple[PreTrainedModel, Any]:
    """Return a model of a name in :data:`MAKERS` and its processor, the same each time."""
    torch.manual_seed(seed)
    model, processor = MAKERS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)  # the default initialisation is so small that blocks hardly change their input
    return model.eval(), processor


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (20, 24)) -> Path:
    """Write an image of random colours."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = numpy.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=numpy.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_sound(path: Path, pitch: float = 440.0, rate: int = RATE, seconds: float = 0.25) -> Path:
    """Write a tone, 16 bits, one channel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = numpy.arange(int(rate * seconds)) / rate
    numbers = (numpy.sin(2 * numpy.pi * pitch * times) * 12000).astype(int).tolist()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(struct.pack(f"<{len(numbers)}h", *numbers))
    return path


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write JSON lines."""
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path
