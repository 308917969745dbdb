from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_models import mixture, vision_language
from small_models.subjects import SUBJECTS, Encoder, Mixture, VisionLanguage
from small_models.training import Schedule
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

STEPS = Schedule(steps=2, batch=2, rate=1e-3)


@pytest.fixture
def vision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VisionLanguage:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(vision_language, "QUICK", vision_language.Settings(STEPS, STEPS, 32, 1, 2, 32, 32, 4))
    monkeypatch.setattr(VisionLanguage, "questions", 3)
    return VisionLanguage(quick=True, cache=tmp_path / "cache")


@pytest.fixture
def experts(tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch) -> Mixture:
    monkeypatch.setattr(mixture, "QUICK", mixture.Settings(STEPS, 16, 300, 32, 2, 4, 2, 32, 4))
    text_file.write_text("\n\n".join(f"Paragraph {number}: {'word ' * 300}" for number in range(120)))
    return Mixture(quick=True, cache=tmp_path / "cache", text=f"{text_file}:raw")


@pytest.fixture
def encoder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=256, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(tmp_path)
    tokenizer.pad_token = "!"
    tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr("small_models.encoder.fetched", lambda cache: tmp_path)
    return Encoder()


def test_what_sees(vision: VisionLanguage):
    model = vision.load()
    names = [name for name, _ in model.named_modules()]
    for part in ("language", "vision"):
        (pattern,) = vision.parts[part]
        assert any(pattern.strip("*") in name for name in names), part
    samples = vision.calibration(3)
    assert len(samples) == 3
    assert {tuple(sample["pixel_values"].shape) for sample in samples} == {(1, 3, 60, 60)}
    for sample in samples:
        assert torch.isfinite(model(**sample).loss)
    assert not torch.equal(samples[0]["pixel_values"], vision.calibration(3, seed=1)[0]["pixel_values"])  # type: ignore[index]
    found = vision.quality(model, "test")
    assert 0 <= found[vision.score] < 0.5
    assert found == vision.quality(model, "test")


def test_a_mixture(experts: Mixture):
    samples = experts.calibration(4)
    assert isinstance(samples, Tensor)
    assert samples.shape == (4, 16)
    model = experts.load()
    found = experts.quality(model, "validation")
    assert 20 < found[experts.score] < 300
    assert 0.5 < experts.evenness(model, "validation")["entropy"] <= 1


def test_an_encoder(encoder: Encoder):
    model = encoder.load()
    samples = encoder.calibration(4)
    assert len(samples) == 4
    assert model(**samples[0]).last_hidden_state.shape[0] == 1  # type: ignore[arg-type]
    found = encoder.quality(model, "test")
    assert -1 <= found[encoder.score] <= 1
    assert found["cosine to dense"] == pytest.approx(1)
    with torch.no_grad():
        model.encoder.layer[0].output.dense.weight.normal_()
    assert encoder.quality(model, "test")["cosine to dense"] < 0.999


def test_subjects_are_known_by_their_names():
    assert list(SUBJECTS) == ["vision-language", "mixture", "encoder", "decoder"]
