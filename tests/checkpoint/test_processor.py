from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny import make
from transformers import LlavaProcessor, PreTrainedTokenizerFast, ViTImageProcessorPil, Wav2Vec2FeatureExtractor

import eckart
from eckart.checkpoint.processor import copy_processor, load_processor
from eckart.errors import CheckpointError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llava", LlavaProcessor),
        ("vit", ViTImageProcessorPil),
        ("wav2vec2-classifier", Wav2Vec2FeatureExtractor),  # whose processor would want a tokenizer
        ("bert", PreTrainedTokenizerFast),
    ],
)
def test_what_reads_most_is_loaded(name: str, expected: type, tmp_path: Path) -> None:
    model, processor = make(name)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert isinstance(load_processor(tmp_path), expected)


def test_without_files_there_is_none(tmp_path: Path) -> None:
    make("vit")[0].save_pretrained(tmp_path)
    assert load_processor(tmp_path) is None


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    make("vit")[0].save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "None such"}')
    with pytest.raises(CheckpointError, match=r"processor of .* is there .*cannot be loaded"):
        load_processor(tmp_path)


def test_files_are_copied(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    make("llava")[1].save_pretrained(source)
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text("{}")
    target.mkdir()
    assert copy_processor(source, target) == ["processor_config.json", "1_Pooling/config.json"]
    assert (target / "processor_config.json").read_bytes() == (source / "processor_config.json").read_bytes()
    assert copy_processor(tmp_path / "model.gguf", target) == []


def test_a_compressed_model_keeps_its_processor(tmp_path: Path) -> None:
    model, processor = make("bert-masked")
    model.save_pretrained(tmp_path / "dense")
    processor.save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "modules.json").write_text("[]")
    eckart.compress_checkpoint(tmp_path / "dense", tmp_path / "small", "svd", 0.6)
    assert (tmp_path / "small" / "modules.json").read_text() == "[]"
