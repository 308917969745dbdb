from __future__ import annotations

from typing import Any

import pytest
from tests.tiny import CHAT, llava, tokenizer

from eckart.data.chat import messages_of, render
from eckart.data.items import Item, ItemError
from eckart.data.processor import Processor
from eckart.errors import CalibrationError

TURNS = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]
PARTS = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}]


def test_questions_and_answers_become_turns() -> None:
    found = messages_of(Item("x", prompt="what?", answer="that"), parts=False)
    assert found == [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "that"}]
    assert messages_of(Item("x", text="hi"), parts=False) == [{"role": "user", "content": "hi"}]


def test_an_image_stands_before_its_question() -> None:
    found = messages_of(Item("x", image=b"", prompt="what?"), parts=True)
    assert found == PARTS
    # A caption is an answer, to nothing but the image.
    found = messages_of(Item("x", image=b"", text="a cat"), parts=True)
    assert [m["content"][0]["type"] for m in found] == ["image", "text"]
    # What has a place for it keeps that.
    assert messages_of(Item("x", image=b"", messages=PARTS), parts=True) == PARTS
    put = messages_of(Item("x", image=b"", messages=[{"role": "user", "content": "what?"}]), parts=True)
    assert put == PARTS


def test_answers_are_told_apart() -> None:
    processor = Processor.of(tokenizer(chat=CHAT))
    found = render(processor, Item("x", messages=TURNS))
    assert found == [
        ("<s>user:a</s><s>assistant:", False),
        ("<s>user:a</s><s>assistant:b</s>", True),
        ("<s>user:a</s><s>assistant:b</s><s>user:c</s><s>assistant:", False),
    ]
    assert [ends for _, ends in render(processor, Item("x", messages=TURNS[:2]))] == [False, True]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({}, "nothing to ask"),
        ({"answer": "b"}, "nothing to ask"),
        ({"image": b"", "text": "a"}, "more than text"),
        ({"messages": PARTS}, "more than text"),
    ],
)
def test_what_is_no_conversation(item: dict[str, Any], message: str) -> None:
    with pytest.raises(ItemError, match=f"row 1 .*{message}"):
        messages_of(Item("row 1", **item), parts=False)


def test_templates_that_are_not_there_or_fail() -> None:
    with pytest.raises(CalibrationError, match="it has none"):
        render(Processor.of(tokenizer()), Item("x", messages=TURNS))
    with pytest.raises(CalibrationError, match="it has none"):
        render(Processor.of(llava(chat=None)[1]), Item("x", messages=TURNS))
    strict = tokenizer(chat="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ItemError, match=r"row 1: the chat template cannot write it: .*must alternate"):
        render(Processor.of(strict), Item("row 1", messages=TURNS))
