"""GGUF files that are written are those that transformers reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.conftest import byte_tokenizer, make_model
from torch import Tensor

import eckart
from eckart.errors import CheckpointError, ExportError
from eckart.runtimes.gguf import NAME, write_gguf

gguf = pytest.importorskip("gguf")


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_file_loads_with_the_very_same_logits(kind: str, tmp_path: Path, tokens: Tensor) -> None:
    model = make_model(kind)
    done = eckart.export(model, "gguf", tmp_path / "file", processor=byte_tokenizer())
    assert done.difference == 0
    assert done.merged == 0
    read = eckart.load_model(tmp_path / "file" / NAME, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(read(tokens[:1]).logits, model(tokens[:1]).logits)


def test_factors_are_multiplied_and_16_bits_stay_16(tmp_path: Path, tokens: Tensor) -> None:
    model = make_model("llama")
    eckart.compress(model, "svd-llm", 0.6, tokens)
    whole = eckart.export(model, "gguf", tmp_path / "whole", processor=byte_tokenizer())
    half = eckart.export(model, "gguf", tmp_path / "half", processor=byte_tokenizer(), dtype=torch.bfloat16)
    assert whole.merged == half.merged == 21
    assert whole.difference < 1e-5
    assert 1e-5 < half.difference < 0.2
    kinds = {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(tmp_path / "half" / NAME).tensors}
    assert kinds["blk.0.attn_q.weight"] == gguf.GGMLQuantizationType.BF16
    assert kinds["blk.0.attn_norm.weight"] == gguf.GGMLQuantizationType.F32
    assert half.bytes_written < 0.7 * whole.bytes_written


@pytest.mark.parametrize("quantize", ["q8_0", "q4_0"])
def test_rounded_weights_take_their_bytes(quantize: str, tmp_path: Path) -> None:
    done = eckart.export(make_model("llama"), "gguf", tmp_path / "file", quantize=quantize, processor=byte_tokenizer())
    kinds = {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(tmp_path / "file" / NAME).tensors}
    assert kinds["blk.0.attn_q.weight"] == gguf.GGMLQuantizationType[quantize.upper()]
    assert kinds["blk.0.ffn_down.weight"] == gguf.GGMLQuantizationType.F32  # 48 numbers a row are no blocks of 32
    assert done.tolerance is None
    assert 0 < done.difference < done.largest


def test_stretched_positions_are_refused(tmp_path: Path) -> None:
    model = make_model("llama")
    model.config.rope_parameters = {**model.config.rope_parameters, "rope_type": "linear", "factor": 2.0}
    with pytest.raises(ExportError, match="stretches its positions"):
        write_gguf(model, byte_tokenizer(), tmp_path)


def test_settings_that_are_not_read_back_are_found_by_the_logits(tmp_path: Path) -> None:
    # Another pattern of local attention than such files can say, and fewer positions than they are read with.
    for kind, error in (("gemma3", ExportError), ("gpt2", CheckpointError)):
        with pytest.raises(error):
            eckart.export(make_model(kind), "gguf", tmp_path / kind, processor=byte_tokenizer())
        assert list(tmp_path.iterdir()) == []


def test_no_tokenizer_no_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="A GGUF file holds the tokenizer, and the model has none"):
        eckart.export(make_model("llama"), "gguf", tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
