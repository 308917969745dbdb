from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from small_models.examination import MEAN, accuracy, blind_guess, make_exam
from small_models.questions import KINDS
from small_models.vision_language import QUICK, encode, make_model, make_processor
from torch import Tensor

pytest.importorskip("matplotlib")


class Oracle:
    """Knows the next token, but is wrong about some."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, words: int, wrong: int | None = None) -> None:
        self.words, self.wrong = words, wrong

    def __call__(self, input_ids: Tensor, **others: Tensor) -> SimpleNamespace:
        following = torch.roll(input_ids, -1, dims=1)
        if self.wrong is not None:
            following = following.where(following != self.wrong, torch.tensor(0))
        return SimpleNamespace(logits=torch.nn.functional.one_hot(following, self.words).float())


def test_who_knows_all_is_right_and_one_wrong_word_is_a_wrong_answer():
    processor = make_processor()
    exam = make_exam("test", 12)
    words = len(processor.tokenizer)
    assert set(accuracy(Oracle(words), processor, exam).values()) == {1.0}
    red = processor.tokenizer.convert_tokens_to_ids("red")
    found = accuracy(Oracle(words, red), processor, exam)
    shares = {kind: sum("red" not in q.answer.split() for _, q in asked) / 12 for kind, asked in exam.items()}
    assert found == {**shares, MEAN: pytest.approx(sum(shares.values()) / len(shares))}
    assert shares["colour"] < 1
    assert shares["caption"] < 1


def test_an_answer_is_right_where_greedy_generation_gives_it():
    processor = make_processor()
    model = make_model(QUICK, processor).eval()
    exam = {"digit": make_exam("test", 6)["digit"]}
    # Biased towards some answers, so that a model that knows nothing is right now and then.
    words = processor.tokenizer.convert_tokens_to_ids
    chosen = [words("<end>"), *(words(q.answer) for _, q in exam["digit"][:3])]
    with torch.no_grad():
        model.lm_head.weight[chosen] *= 12
    right = 0
    for picture, question in exam["digit"]:
        batch = encode(processor, [(picture, [question])])
        ids = batch["input_ids"][:, :-2]  # without the answer and its end
        made = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=batch["pixel_values"],
            max_new_tokens=2,
            do_sample=False,
        )
        right += processor.tokenizer.decode(made[0, ids.shape[1] :]).split() == [question.answer, "<end>"]
    assert accuracy(model, processor, exam)["digit"] == right / 6


def test_an_exam_has_so_many_of_each_kind_about_different_pictures():
    exam = make_exam("validation", 5)
    assert list(exam) == [*KINDS, "caption"]
    assert {len(asked) for asked in exam.values()} == {5}
    pictures = [picture.tobytes() for asked in exam.values() for picture, _ in asked]
    assert len(set(pictures)) == len(pictures)


def test_a_blind_guess_is_the_commonest_answer():
    exam = make_exam("test", 40)
    found = blind_guess(exam, make_exam("train", 40))
    assert 0.3 < found["presence"] < 0.7
    assert found["digit"] < 0.4
    assert found["caption"] == 0
    assert found[MEAN] < 0.4
