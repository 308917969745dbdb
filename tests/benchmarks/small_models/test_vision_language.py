from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models.pictures import draw_picture, make_scene
from small_models.questions import Question, questions_about
from small_models.training import Schedule
from small_models.vision_language import (
    IGNORED,
    QUICK,
    Settings,
    chats_of,
    conversation,
    encode,
    make_model,
    make_processor,
    trained,
)
from transformers import AutoModelForImageTextToText, AutoProcessor

pytest.importorskip("matplotlib")
TINY = Settings(Schedule(steps=2, batch=2, rate=1e-3), Schedule(steps=2, batch=2, rate=1e-3), 32, 1, 2, 32, 32, 4)


def test_labels_are_the_answers_and_their_ends():
    processor = make_processor()
    picture = draw_picture(make_scene("train", 0))
    asked = [Question("count", "how many stars are there", "2"), Question("place", "where is the star", "top left")]
    batch = encode(processor, [(picture, asked), (picture, asked[:1])])
    words = processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist())
    assert words[:1] == ["<user>"]
    assert words[1:37] == ["<image>"] * 36
    assert words[37:] == [
        *["how", "many", "stars", "are", "there", "<assistant>", "2", "<end>"],
        *["<user>", "where", "is", "the", "star", "<assistant>", "top", "left", "<end>"],
    ]
    for row, answers in enumerate(("2 <end> top left <end>", "2 <end>")):
        labels = batch["labels"][row]
        assert processor.tokenizer.convert_ids_to_tokens(labels[labels != IGNORED].tolist()) == answers.split()
        assert torch.equal(labels[labels != IGNORED], batch["input_ids"][row][labels != IGNORED])
    assert batch["attention_mask"].sum(1).tolist() == [len(words), len(words) - 9]


def test_pixels_are_those_of_the_picture():
    picture = draw_picture(make_scene("train", 3))
    pixels = encode(make_processor(), [(picture, [Question("digit", "what digit is there", "1")])])["pixel_values"]
    expected = np.asarray(picture, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(pixels[0].numpy(), expected, atol=1e-5)


def test_the_processor_is_the_same_after_saving(tmp_path):
    processor = make_processor()
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    chats = chats_of("validation", range(3), 4)
    ours, theirs = encode(processor, chats), encode(loaded, chats)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    text = loaded.apply_chat_template(conversation(chats[0][1])[:1], add_generation_prompt=True)
    assert text == f"<user> <image> {chats[0][1][0].text} <assistant> "


def test_chats_end_with_the_caption_so_that_no_question_is_answered_by_it():
    for _, asked in chats_of("train", range(5), 4):
        assert [question.kind for question in asked].index("caption") == len(asked) - 1 == 4


def test_the_vision_tower_is_the_deeper_one():
    model = make_model(QUICK, make_processor()).model
    assert len(model.vision_tower.encoder.layers) > len(model.language_model.layers)


def test_the_full_size_is_a_few_million_parameters():
    count = sum(parameter.numel() for parameter in make_model(Settings(), make_processor()).parameters())
    assert 3e6 < count < 8e6


def test_a_trained_model_is_loaded_by_plain_transformers_and_made_once(tmp_path: Path):
    folder = trained(TINY, tmp_path)
    assert trained(TINY, tmp_path) == folder
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    processor = AutoProcessor.from_pretrained(folder)
    scene = make_scene("test", 0)
    batch = encode(processor, [(draw_picture(scene), questions_about(scene, random.Random(0), 2))])
    assert torch.isfinite(model(**batch).loss)


def test_two_trainings_give_the_same_bytes(tmp_path: Path):
    first, second = (trained(TINY, tmp_path / name) / "model.safetensors" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
