"""Conversations as a model's chat template writes them."""

from __future__ import annotations

from typing import Any

from eckart.data.items import Item, ItemError
from eckart.data.processor import Processor
from eckart.errors import CalibrationError

ANSWERS = "assistant"  # the role whose turns are answers


def messages_of(item: Item, *, parts: bool) -> list[dict[str, Any]]:
    """Return an item as a conversation.

    Args:
        item: with messages, or with a prompt, an answer, a caption, an image or a sound.
        parts: contents are lists of parts, as processors take them; else they are text, as tokenizers do.

    Raises:
        ItemError: there is nothing to say.
    """
    media = [{"type": name} for name in _media(item)]
    if item.messages is not None:
        messages = [{**message, "content": _parts(message["content"])} for message in item.messages]
        said = {part["type"] for message in messages for part in message["content"]}
        missing = [part for part in media if part["type"] not in said]
        asked = next((message for message in messages if message["role"] == "user"), messages[0])
        asked["content"] = [*missing, *asked["content"]]
    else:
        answer = item.answer if item.answer is not None else (item.text if media else None)
        prompt = item.prompt if item.prompt is not None else (None if media else item.text)
        question = [*media, *([] if prompt is None else _parts(prompt))]
        if not question:
            raise ItemError(f"{item.where} has nothing to ask: neither messages, nor a prompt, nor text.")
        messages = [{"role": "user", "content": question}]
        if answer is not None:
            messages.append({"role": ANSWERS, "content": _parts(answer)})
    if parts:
        return messages
    if any(part["type"] != "text" for message in messages for part in message["content"]):
        raise ItemError(f"{item.where} has more than text in it, and the model reads text only.")
    return [{**message, "content": "\n".join(part["text"] for part in message["content"])} for message in messages]


def render(processor: Processor, item: Item) -> list[tuple[str, bool]]:
    """Return a conversation as text, cut where answers begin and end: the text up to there, and if it ends an answer.

    The last is the whole.

    Raises:
        CalibrationError: there is no chat template.
        ItemError: the template cannot write this conversation; says why.
    """
    template = processor.chat
    if template is None:
        raise CalibrationError(
            "Conversations need the model's chat template, and it has none (chat_template.jinja, or in "
            "tokenizer_config.json). Take a model that was made for chats, or text without --chat."
        )
    messages = messages_of(item, parts=template is processor.whole)

    def written(count: int, *, asks: bool) -> str:
        try:
            text: str = template.apply_chat_template(messages[:count], tokenize=False, add_generation_prompt=asks)
        except Exception as error:  # templates raise what they like
            raise ItemError(f"{item.where}: the chat template cannot write it: {error}") from error
        return text

    found: list[tuple[str, bool]] = []
    for number, message in enumerate(messages):
        if message["role"] == ANSWERS:
            found.append((written(number, asks=True), False))
            found.append((written(number + 1, asks=False), True))
    if not found or messages[-1]["role"] != ANSWERS:
        found.append((written(len(messages), asks=True), False))
    return found


def _media(item: Item) -> list[str]:
    """Return the types of the parts that an item has besides text."""
    found = ["image"] if item.image is not None else []
    return found + (["audio"] if item.sound is not None else [])


def _parts(content: Any) -> list[dict[str, Any]]:
    return list(content) if isinstance(content, list) else [{"type": "text", "text": str(content)}]
