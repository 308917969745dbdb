from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.tiny import NAMES, make, write_image, write_rows

from eckart.data.encoder import Encoder
from eckart.data.items import Item
from eckart.errors import EckartError
from eckart.evaluate import measure_options, read_questions
from eckart.evaluate.greedy import option_chosen

OPTIONS = list(NAMES.values())


@pytest.fixture
def encoder() -> Encoder:
    return Encoder.of(*make("llava"), 64)


def test_a_labelled_folder_is_a_list_of_questions(encoder: Encoder, tmp_path: Path) -> None:
    for i in range(6):
        write_image(tmp_path / NAMES[i % 3] / f"{i}.png", seed=i)
    questions = read_questions(str(tmp_path), encoder, OPTIONS, 6, 0)
    assert sorted(question.right for question in questions) == [0, 0, 1, 1, 2, 2]
    names = encoder.processor.tokenizer
    assert names is not None
    for question in questions:
        for option, sample in zip(OPTIONS, question.options, strict=True):
            assert names.decode(sample["labels"][sample["labels"] >= 0]) == f"{option}</s>"
    told: list[int] = []
    other, _ = make("llava", seed=1)
    model = encoder.inputs.model
    score = measure_options(model, questions, baseline=other, on_item=lambda done, total: told.append(done))
    with torch.no_grad():
        right = [option_chosen(model, question.options) == question.right for question in questions]
    assert score.value == pytest.approx(sum(right) / 6)
    assert score.baseline is not None
    assert told == [1, 2, 3, 4, 5, 6]


def test_options_of_conversations(encoder: Encoder, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "which?"}, {"role": "assistant", "content": "Square"}]
    path = write_rows(tmp_path / "x.jsonl", [{"messages": turns}])
    question = read_questions(str(path), encoder, OPTIONS, 1, 0)[0]
    assert question.right == 1
    expected = encoder.encode(Item("x", messages=[turns[0], {"role": "assistant", "content": "circle"}]))
    assert torch.equal(question.options[0]["input_ids"], expected["input_ids"])


def test_answers_that_are_no_options(encoder: Encoder, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.jsonl", [{"prompt": "which?", "answer": "hexagon"}])
    with pytest.raises(EckartError, match=r"x\.jsonl, line 1: its answer is 'hexagon', none of the options"):
        read_questions(str(path), encoder, OPTIONS, 1, 0)
    with pytest.raises(EckartError, match="Expected two options or more to choose from, found a, A"):
        read_questions(str(path), encoder, ["a", "A"], 1, 0)
    with pytest.raises(EckartError, match="a classifier has its classes"):
        read_questions(str(path), Encoder.of(*make("bert-classifier"), 64), OPTIONS, 1, 0)
