from __future__ import annotations

import random
from collections import Counter

import pytest
from small_models.pictures import Scene, Thing, make_scene
from small_models.questions import KINDS, ask, caption_of, questions_about, vocabulary

#     .        red 7      .
#  small blue circle  large blue circle  .
#     .     white star     .
SCENE = Scene(
    (
        Thing("digit", "red", "large", 0, 1, digit=7),
        Thing("circle", "blue", "small", 1, 0),
        Thing("circle", "blue", "large", 1, 1),
        Thing("star", "white", "small", 2, 1),
    ),
    seed=0,
)
ASKED = {kind: [ask(SCENE, random.Random(seed), kind) for seed in range(200)] for kind in KINDS}
ALL = {kind: {(question.text, question.answer) for question in asked if question} for kind, asked in ASKED.items()}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("digit", {("what digit is there", "7")}),
        ("colour", {("what colour is the digit", "red"), ("what colour is the star", "white")}),
        ("place", {("where is the digit", "top centre"), ("where is the star", "bottom centre")}),
        ("size", {("is the red digit small or large", "large"), ("is the white star small or large", "small")}),
        (
            "relation",
            {
                ("what is left of the digit", "nothing"),
                ("what is right of the digit", "nothing"),
                ("what is below the digit", "circle"),
                ("what is above the star", "circle"),
                ("what is left of the star", "nothing"),
                ("what is right of the star", "nothing"),
            },
        ),
    ],
)
def test_all_questions_of_a_kind(kind, expected):
    assert ALL[kind] == expected


def test_questions_that_are_drawn_from_many():
    assert ("how many circles are there", "2") in ALL["count"]
    assert ("how many squares are there", "0") in ALL["count"]
    assert ("what is in the middle left", "circle") in ALL["shape"]
    assert ("what is in the top centre", "digit") in ALL["shape"]
    assert ("what is in the bottom right", "nothing") in ALL["shape"]
    assert {("is there a blue circle", "yes"), ("is there a blue star", "no")} <= ALL["presence"]
    assert not {text for text, answer in ALL["presence"] if answer == "yes"} & {
        text for text, answer in ALL["presence"] if answer == "no"
    }


def test_there_is_no_question_without_a_clear_answer():
    twins = Scene((Thing("star", "red", "small", 0, 0), Thing("star", "red", "small", 2, 2)), seed=0)
    assert [kind for kind in KINDS if ask(twins, random.Random(0), kind) is None] == [
        "digit",
        "colour",
        "place",
        "size",
        "relation",
    ]


def test_a_caption_says_all_in_reading_order():
    assert caption_of(SCENE).answer == (
        "top centre large red 7 middle left small blue circle middle centre large blue circle "
        "bottom centre small white star"
    )


def test_questions_about_a_scene_are_of_different_kinds():
    kinds: Counter[str] = Counter()
    for number in range(200):
        asked = questions_about(make_scene("train", number), random.Random(number), 4)
        assert len(asked) == len({question.kind for question in asked})
        assert 3 <= len(asked) <= 4  # of twins there is little to ask
        kinds.update(question.kind for question in asked)
    assert set(kinds) == set(KINDS)
    assert max(kinds.values()) < 2.5 * min(kinds.values())


def test_every_word_is_known():
    known, used = set(vocabulary()), set[str]()
    for number in range(800):
        scene = make_scene("test", number)
        for question in [*questions_about(scene, random.Random(number), 8), caption_of(scene)]:
            used.update(question.text.split(), question.answer.split())
    assert used == known


def test_no_answer_is_right_nearly_always():
    for kind in KINDS:
        asked = (ask(make_scene("test", number), random.Random(number), kind) for number in range(400))
        answers = Counter(question.answer for question in asked if question is not None)
        (_, commonest), *_ = answers.most_common(1)
        assert commonest < 0.56 * answers.total(), kind
