"""The model that sees: a vision tower and a text decoder, trained to answer questions about drawn pictures."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from small_models.cache import cached
from small_models.pictures import SIDE, draw_picture, make_scene
from small_models.questions import Question, caption_of, questions_about, vocabulary
from small_models.training import Schedule, train, training_dtype
from small_models.vision_tower import FOLDER, TOWER_NAME, train_tower

VERSION = 1  # of pictures, questions and training: another one is another model
PATCH = 10  # pixels: two by two patches are a cell of the grid
PAD, IMAGE, USER, ASSISTANT, END, UNKNOWN = "<pad>", "<image>", "<user>", "<assistant>", "<end>", "<unknown>"
SPECIAL = (PAD, IMAGE, USER, ASSISTANT, END, UNKNOWN)
CHAT = (
    "{% for message in messages %}{{ '<' + message['role'] + '> ' }}"
    "{% if message['content'] is string %}{{ message['content'] + ' ' }}{% else %}"
    "{% for part in message['content'] %}"
    "{{ ('<image>' if part['type'] == 'image' else part['text']) + ' ' }}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '<end> ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)
IGNORED = -100  # the label of a token that no loss counts


@dataclass(frozen=True)
class Settings:
    """All that the trained model depends on, but for the machine's products."""

    schedule: Schedule = field(default_factory=lambda: Schedule(steps=2400, batch=32, rate=1.5e-3))
    tower_schedule: Schedule = field(default_factory=lambda: Schedule(steps=600, batch=64, rate=1.5e-3))
    hidden: int = 192
    text_layers: int = 5
    vision_layers: int = 6
    text_inner: int = 512
    vision_inner: int = 512
    heads: int = 6
    questions: int = 8  # about each picture in training, at most
    seed: int = 0


QUICK = Settings(
    schedule=Schedule(steps=250, batch=32, rate=2e-3),
    tower_schedule=Schedule(steps=200, batch=32, rate=2e-3),
    hidden=96,
    text_layers=3,
    vision_layers=4,
    text_inner=256,
    vision_inner=256,
    heads=4,
)


def make_processor() -> LlavaProcessor:
    """Return the processor: one token a word, and as many for a picture as it has patches."""
    words = [*SPECIAL, *vocabulary()]
    backend = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[IMAGE, USER, ASSISTANT],
        padding_side="right",
        model_max_length=1024,
    )
    return LlavaProcessor(
        SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        image_token=IMAGE,
        chat_template=CHAT,
    )


def make_model(settings: Settings, processor: LlavaProcessor) -> PreTrainedModel:
    """Return the model with random weights, float32. The vision tower is the deeper of the two."""
    torch.manual_seed(settings.seed)
    text = LlamaConfig(
        vocab_size=len(processor.tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.text_inner,
        num_hidden_layers=settings.text_layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads // 2,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        pad_token_id=processor.tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=processor.tokenizer.eos_token_id,
    )
    vision = SiglipVisionConfig(
        hidden_size=settings.hidden,
        intermediate_size=settings.vision_inner,
        num_hidden_layers=settings.vision_layers,
        num_attention_heads=settings.heads,
        image_size=SIDE,
        patch_size=PATCH,
        vision_use_head=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=processor.image_token_id,
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    model: PreTrainedModel = LlavaForConditionalGeneration(config)
    return model


def conversation(questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Return the messages of a chat about one picture, which comes first."""
    messages: list[dict[str, Any]] = []
    for number, question in enumerate(questions):
        parts: list[dict[str, str]] = [] if number else [{"type": "image"}]
        messages.append({"role": "user", "content": [*parts, {"type": "text", "text": question.text}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": question.answer}]})
    return messages


def encode(processor: LlavaProcessor, chats: Sequence[tuple[Any, Sequence[Question]]]) -> dict[str, Tensor]:
    """Return the model's arguments for pictures and what is asked about them.

    Args:
        processor: of :func:`make_processor`.
        chats: a picture and its questions each.

    Returns:
        ``input_ids``, ``attention_mask``, ``labels`` (chats, tokens), padded on the right, and ``pixel_values``
        (chats, 3, side, side). Labels are the answers' tokens and the end of each; all others are :data:`IGNORED`.
    """
    texts = [processor.apply_chat_template(conversation(questions)) for _, questions in chats]
    inputs = processor(text=texts, images=[[picture] for picture, _ in chats], padding=True, return_tensors="pt")
    ids = inputs["input_ids"]
    number = processor.tokenizer.convert_tokens_to_ids
    # A token belongs to an answer where, so far, more answers have begun than ended.
    begun, ended = ((ids == number(token)).long() for token in (ASSISTANT, END))
    answer = (begun.cumsum(1) - begun) > (ended.cumsum(1) - ended)
    labels = ids.where(answer, torch.tensor(IGNORED))
    return {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")} | {"labels": labels}


def chats_of(part: str, numbers: Sequence[int], questions: int, seed: int = 0) -> list[tuple[Any, list[Question]]]:
    """Return pictures of a part by their numbers, each with so many questions and, last, its caption."""
    chats = []
    for number in numbers:
        scene = make_scene(part, number, seed)
        asked = questions_about(scene, random.Random(f"questions/{part}/{seed}/{number}"), questions)
        chats.append((draw_picture(scene), [*asked, caption_of(scene)]))
    return chats


def trained(settings: Settings, chosen: Path | None = None) -> Path:
    """Return the folder of the trained model and its processor, bfloat16; trains it where there is none."""
    dtype = training_dtype()
    facts = {"version": VERSION, "products": str(dtype), **asdict(settings)}

    def make(folder: Path) -> None:
        processor = make_processor()
        model = make_model(settings, processor)
        # Fused attention in bfloat16 is the slower one on processors, backward ten times so.
        model.set_attn_implementation("eager")
        train_tower(model.model.vision_tower, processor, settings.tower_schedule, folder, dtype)
        size = settings.schedule.batch

        def batch_at(step: int) -> dict[str, Tensor]:
            numbers = range(step * size, (step + 1) * size)
            return encode(processor, chats_of("train", numbers, settings.questions, settings.seed))

        train(model, batch_at, settings.schedule, folder, dtype)
        (folder / FOLDER / TOWER_NAME).unlink()
        model.to(torch.bfloat16).save_pretrained(folder)
        processor.save_pretrained(folder)

    return cached("vision-language", json.loads(json.dumps(facts)), make, chosen)
