from __future__ import annotations

from collections import Counter

import pytest
from small_models.similarity import SENTENCES, pairs_of, sentences_of, training_sentences


def test_pairs_have_all_grades_equally_often():
    for part in ("validation", "test"):
        assert set(Counter(pair.grade for pair in pairs_of(part)).items()) == {(grade, 20) for grade in range(4)}


def test_no_sentence_is_in_two_parts_or_calibrated_on():
    validation, test = set(sentences_of("validation")), set(sentences_of("test"))
    assert len(validation) == len(test) == 80
    assert not validation & test
    assert not set(training_sentences(600)) & (validation | test)


def test_sentences_are_whole():
    lines = [line for line in SENTENCES.read_text().split("\n") if line]
    assert all(line[0].isupper() and line.endswith(".") for line in lines)
    assert len(set(lines)) == len(lines) == 160
    for sentence in training_sentences(200):
        assert sentence[0].isupper()
        assert sentence.endswith(".")


def test_calibration_depends_on_the_seed_alone():
    assert training_sentences(100) == training_sentences(100)
    assert len(set(training_sentences(100))) == 100
    assert training_sentences(100, seed=1) != training_sentences(100)


def test_more_sentences_than_there_are():
    with pytest.raises(ValueError, match=r"sentences to calibrate on; 100000 were asked for"):
        training_sentences(100_000)


def test_a_part_that_has_no_pairs():
    with pytest.raises(ValueError, match="validation and test; found 'train'"):
        pairs_of("train")
