from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_models import vision_language
from small_models.files import write_files
from small_models.subjects import Encoder, VisionLanguage
from small_models.training import Schedule

import eckart
from eckart.data import read_samples
from eckart.evaluate import read_pairs


def test_chats_about_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("matplotlib")
    steps = Schedule(steps=1, batch=2, rate=1e-3)
    monkeypatch.setattr(vision_language, "QUICK", vision_language.Settings(steps, steps, 32, 1, 2, 32, 32, 4))
    monkeypatch.setattr(VisionLanguage, "questions", 2)
    monkeypatch.setattr(VisionLanguage, "samples", 3)
    subject = VisionLanguage(quick=True, cache=tmp_path / "cache")
    calibration, test = write_files(subject, tmp_path / "data")
    model, processor = subject.load(), eckart.load_processor(subject.folder)
    expected = {sample["input_ids"].shape[1] for sample in subject.calibration(3)}
    samples = read_samples(str(calibration), processor, model, samples=3, seed=0, chat=True)
    assert {sample["input_ids"].shape[1] for sample in samples} == expected
    assert all((sample["labels"] >= 0).any() for sample in samples)
    rows = [json.loads(line) for line in test.read_text().splitlines()]
    assert len(rows) == 2 * len(subject.exam("test"))
    assert all((tmp_path / "data" / row["image"]).is_file() and row["prompt"] and row["answer"] for row in rows)


def test_sentences_and_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Encoder, "samples", 4)
    calibration, test = write_files(Encoder.__new__(Encoder), tmp_path)
    assert [list(json.loads(line)) for line in calibration.read_text().splitlines()] == [["text"]] * 4
    assert {pair.score for pair in read_pairs(test)} == {0, 1, 2, 3}
