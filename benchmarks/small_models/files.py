"""Writes what small models are calibrated on and measured on as files, as ``eckart`` reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from small_models.similarity import pairs_of, training_sentences
from small_models.subjects import Encoder, LanguageModel, Subject, VisionLanguage
from small_models.texts import text_parts
from small_models.vision_language import chats_of, conversation

CALIBRATION, TEST = "calibration", "test"


def write_files(subject: Subject, folder: Path) -> list[Path]:
    """Write a subject's files, and return the two to name: calibration and test.

    Args:
        subject: whose calibration has as many samples as suit it.
        folder: is made; what has the same names in it is written over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(subject, VisionLanguage):
        return _write_pictures(subject, folder)
    if isinstance(subject, LanguageModel):
        return [_write(folder / f"{name}.txt", text_parts()[part]) for name, part in _parts()]
    assert isinstance(subject, Encoder)
    sentences = ({"text": sentence} for sentence in training_sentences(subject.samples))
    graded = ({"sentence1": pair.first, "sentence2": pair.second, "score": pair.grade} for pair in pairs_of(TEST))
    return [
        _write_lines(folder / f"{CALIBRATION}.jsonl", sentences),
        _write_lines(folder / f"{TEST}.jsonl", graded),
    ]


def _parts() -> tuple[tuple[str, str], ...]:
    return (CALIBRATION, "train"), (TEST, "test")


def _write_pictures(subject: VisionLanguage, folder: Path) -> list[Path]:
    """Write pictures beside their questions: chats to calibrate on, and the test's questions one by one."""
    settings = subject.settings
    chats = chats_of("train", range(subject.samples), settings.questions, settings.seed)
    trained = (
        {"image": _draw(folder / CALIBRATION / f"{number}.png", picture), "messages": conversation(asked)}
        for number, (picture, asked) in enumerate(chats)
    )
    asked = [(picture, question) for questions in subject.exam(TEST).values() for picture, question in questions]
    tested = (
        {
            "image": _draw(folder / TEST / f"{number}.png", picture),
            "prompt": question.text,
            "answer": question.answer,
        }
        for number, (picture, question) in enumerate(asked)
    )
    return [
        _write_lines(folder / f"{CALIBRATION}.jsonl", trained),
        _write_lines(folder / f"{TEST}.jsonl", tested),
    ]


def _draw(path: Path, picture: Any) -> str:
    """Write a picture, and return its place beside the file that names it."""
    path.parent.mkdir(exist_ok=True)
    picture.save(path)
    return f"{path.parent.name}/{path.name}"


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    return _write(path, "".join(json.dumps(row) + "\n" for row in rows))


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
