from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.evaluate.test_reading import sample_of
from tests.tiny import END, make

from eckart.data.answers import IGNORED
from eckart.data.encoder import Encoder
from eckart.data.items import Item
from eckart.evaluate.greedy import answers_right, option_chosen, split, write


@pytest.mark.parametrize("name", ["llama", "llava", "t5", "whisper"])
def test_what_a_model_finds_most_likely(name: str, tmp_path: Path) -> None:
    model, sample = make(name)[0], sample_of(name, tmp_path)
    prompt, answer = split(model, sample)
    assert answer[-1] == END
    expected: list[int] = []
    with torch.no_grad():
        while len(expected) < 4 and (not expected or expected[-1] != END):
            so_far = torch.tensor([expected], dtype=torch.int64)
            if name in ("t5", "whisper"):
                given = {**prompt, "decoder_input_ids": torch.cat([sample["decoder_input_ids"][:, :1], so_far], dim=1)}
            else:
                ids = torch.cat([prompt["input_ids"], so_far], dim=1)
                given = {**prompt, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            expected.append(int(model(**given).logits[0, -1].argmax()))
    written = [token for token in write(model, prompt, 4).tolist() if token != END]
    assert written == [token for token in expected if token != END]


def test_answers_are_compared_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, names = make("llama")
    sample = sample_of("llama", tmp_path)  # whose answer is "a cat"

    def right(text: str, known: object) -> float:
        monkeypatch.setattr("eckart.evaluate.greedy.write", lambda *_: torch.tensor(names(text)["input_ids"][1:]))
        return answers_right(model, sample, known)

    texts = (" A  Cat</s>", "a cat</s> and more", "a cat", "a cat too", "")
    assert [right(text, names) for text in texts] == [1, 1, 1, 0, 0]
    model.generation_config.eos_token_id = END
    assert [right(text, None) for text in (" a cat</s>", " a cat</s>b", " A cat</s>", " a cat and")] == [1, 1, 0, 0]


def test_the_last_answer_of_several() -> None:
    model, _ = make("llama")
    ids = torch.arange(8)[None]
    labels = torch.tensor([[IGNORED, 1, 2, IGNORED, IGNORED, 5, 6, IGNORED]])
    prompt, answer = split(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    assert prompt["input_ids"].tolist() == prompt["attention_mask"].cumsum(1).sub(1).tolist() == [[0, 1, 2, 3, 4]]
    assert answer.tolist() == [5, 6]


def test_the_option_with_the_lowest_loss() -> None:
    model, names = make("llama")
    encoder = Encoder.of(model, names, 64)
    options = [encoder.encode(Item("x", prompt="what?", answer=answer)) for answer in ("cat", "dog", "cow")]
    with torch.no_grad():
        losses = [float(model(**option).loss) * int((option["labels"] != IGNORED).sum()) for option in options]
        assert option_chosen(model, options) == losses.index(min(losses))
        assert option_chosen(model, options[::-1]) == 2 - losses.index(min(losses))
