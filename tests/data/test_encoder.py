from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import END, IMAGE, START, llava, make, tokenizer, write_image, write_sound

from eckart.data.answers import IGNORED
from eckart.data.encoder import Encoder
from eckart.data.items import Item, ItemError
from eckart.errors import CalibrationError


def encoder(name: str, length: int = 64, **options: Any) -> Encoder:
    return replace(Encoder.of(*make(name), length), **options)


def answer_of(sample: dict[str, torch.Tensor], processor: Any) -> str:
    labels = sample["labels"][0]
    return str(getattr(processor, "tokenizer", processor).decode(labels[labels != IGNORED]))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"text": "a cat"}, "a cat</s>"),
        ({"prompt": "what?", "answer": "a cat"}, "a cat</s>"),
        ({"label": "cat"}, "cat</s>"),
        ({"prompt": "what?", "text": "a cat"}, "a cat</s>"),
        ({"messages": [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "a cat"}]}, "a cat</s>"),
    ],
)
@pytest.mark.parametrize("chat", [None, "template"])
def test_answers_about_images(item: dict[str, Any], expected: str, chat: str | None, image: Path) -> None:
    model, processor = make("llava") if chat else llava(chat=None)
    if chat is None and "messages" in item:
        return
    found = Encoder.of(model.eval(), processor, 64).encode(Item("x", image=image, **item))
    assert answer_of(found, processor).strip() == expected
    assert int((found["input_ids"] == IMAGE).sum()) == 16
    assert not bool((found["labels"] == IMAGE).any())
    with torch.no_grad():
        assert torch.isfinite(model(**found).loss)


def test_all_answers_of_a_conversation_count_and_nothing_else() -> None:
    turns = [
        {"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    ]
    one = encoder("llava")
    found = one.encode(Item("x", messages=turns))
    assert answer_of(found, one.processor.whole) == "b</s>d</s>"
    assert int((found["input_ids"] == START).sum()) == 4  # those of the template, and no other


def test_a_decoder_of_text() -> None:
    model, names = make("llama")
    found = Encoder.of(model, names, 64).encode(Item("x", prompt="two and two", answer="four"))
    assert names.decode(found["input_ids"][0]) == "<s>two and two four</s>"
    assert answer_of(found, names) == " four</s>"
    cut = Encoder.of(model, names, 14).encode(Item("x", prompt="two and two", answer="four"))
    assert cut["labels"].shape == cut["input_ids"].shape == (1, 14)
    with pytest.raises(ItemError, match="x has no answer tokens among its first 8 tokens"):
        Encoder.of(model, names, 8).encode(Item("x", prompt="two and two", answer="four"))


def test_encoder_decoders() -> None:
    found = encoder("t5").encode(Item("x", prompt="ab", answer="cd"))
    assert found["input_ids"].shape == (1, 3)
    assert found["labels"][0, -1] == END
    assert found["decoder_input_ids"].shape == found["labels"].shape == (1, 3)
    with pytest.raises(ItemError, match="x has no text"):
        encoder("t5").encode(Item("x", answer="cd"))


def test_sounds(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", rate=8000, seconds=0.5)
    found = encoder("whisper").encode(Item("x", sound=path, text="hi"))
    assert found["input_features"].shape == (1, 16, 100)
    assert found["labels"].shape == found["decoder_input_ids"].shape == (1, 3)
    assert encoder("whisper").encode(Item("x", sound=path))["decoder_input_ids"].tolist() == [[START]]
    found = encoder("wav2vec2-ctc").encode(Item("x", sound=path, text="hi"))
    assert (found["input_values"].shape, found["labels"].shape) == ((1, 8000), (1, 2))
    found = encoder("wav2vec2-classifier").encode(Item("x", sound=path, label="square"))
    assert found["labels"].tolist() == [1]


def test_classes_and_features(image: Path) -> None:
    assert encoder("vit").encode(Item("x", image=image, label="circle"))["labels"].tolist() == [0]
    assert "labels" not in encoder("vit").encode(Item("x", image=image, label="hexagon"))
    assert encoder("bert-classifier").encode(Item("x", text="ab", label=2))["labels"].tolist() == [2]
    assert encoder("bert", length=5).encode(Item("x", text="abcdefgh"))["input_ids"].shape == (1, 5)
    found = encoder("clip").encode(Item("x", image=image, label="circle"))
    assert found["input_ids"].shape == (1, len("circle") + 2)


@pytest.mark.parametrize(
    ("name", "item", "message"),
    [
        ("vit", {"text": "a"}, "x has no image, which ViTForImageClassification reads"),
        ("clip", {"text": "a"}, "x has no image"),
        ("whisper", {"text": "a"}, "x has no sound"),
        ("bert", {}, "x has no text"),
        ("bert", {"text": ""}, "x has no text"),
    ],
)
def test_items_that_lack_what_the_model_reads(name: str, item: dict[str, Any], message: str) -> None:
    with pytest.raises(ItemError, match=message):
        encoder(name).encode(Item("x", **item))


def test_an_image_that_fills_the_context(image: Path) -> None:
    with pytest.raises(ItemError, match=r"^x: it has \d+ tokens, and the model's context is 256"):
        encoder("llava", length=999).encode(Item("x", image=image, prompt="a" * 300, answer="b"))


def test_ids_that_the_model_does_not_have() -> None:
    model, names = make("bert")
    names.add_tokens(["extra"])
    with pytest.raises(ItemError, match=r"x has the token id 264, and the model's embedding has 264 rows"):
        Encoder.of(model, names, 64).encode(Item("x", text="extra"))


def test_a_processor_that_is_missing_is_told(image: Path) -> None:
    with pytest.raises(CalibrationError, match=r"lacks preprocessor_config\.json"):
        Encoder.of(make("llava")[0], tokenizer(), 64).encode(Item("x", image=image, text="a"))


def test_a_question_for_all(image: Path) -> None:
    one = encoder("llava", question="what?")
    found = one.encode(Item("x", image=image, label="cat"))
    names = one.processor.tokenizer
    assert names is not None
    assert "what?" in names.decode(found["input_ids"][0])
    assert answer_of(found, one.processor.whole) == "cat</s>"
