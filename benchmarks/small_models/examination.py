"""How many questions about pictures a model answers: by kind, against what a blind guess gets."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import LlavaProcessor, PreTrainedModel

from small_models.pictures import draw_picture, make_scene
from small_models.questions import KINDS, Question, ask, caption_of
from small_models.vision_language import IGNORED, encode

CAPTION = "caption"
BATCH = 50
MEAN = "mean"

Exam = Mapping[str, Sequence[tuple[Any, Question]]]


def make_exam(part: str, count: int, seed: int = 0) -> Exam:
    """Return ``count`` questions of each kind about pictures of a part, one a picture, and as many captions to write.

    Raises:
        ValueError: there is no such part.
    """
    exam: dict[str, list[tuple[Any, Question]]] = {}
    number = 0
    for kind in [*KINDS, CAPTION]:
        asked = exam[kind] = []
        while len(asked) < count:
            scene = make_scene(part, number, seed)
            draw = random.Random(f"exam/{part}/{seed}/{number}")
            question = caption_of(scene) if kind == CAPTION else ask(scene, draw, kind)
            if question is not None:
                asked.append((draw_picture(scene), question))
            number += 1
    return exam


@torch.inference_mode()
def accuracy(model: PreTrainedModel, processor: LlavaProcessor, exam: Exam) -> dict[str, float]:
    """Return the share of answers that are right to the last word, by kind, and their mean.

    An answer is right where each of its tokens, the end included, is the likeliest after those before it: then greedy
    generation gives this answer, and no other.
    """
    shares = {}
    for kind, asked in exam.items():
        right = 0
        for start in range(0, len(asked), BATCH):
            batch = encode(processor, [(picture, [question]) for picture, question in asked[start : start + BATCH]])
            labels = batch.pop("labels")[:, 1:]
            inputs = {name: value.to(model.device) for name, value in batch.items()}
            inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
            likeliest = model(**inputs).logits[:, :-1].argmax(-1).cpu()
            right += int(((likeliest == labels) | (labels == IGNORED)).all(1).sum())
        shares[kind] = right / len(asked)
    return shares | {MEAN: sum(shares.values()) / len(shares)}


def blind_guess(exam: Exam, learned: Exam) -> dict[str, float]:
    """Return what the commonest answer of one exam scores in another one, by kind, and the mean."""
    shares = {}
    for kind, asked in exam.items():
        guess, _ = Counter(question.answer for _, question in learned[kind]).most_common(1)[0]
        shares[kind] = sum(question.answer == guess for _, question in asked) / len(asked)
    return shares | {MEAN: sum(shares.values()) / len(shares)}
