from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_models.mixture import QUICK, Settings, evenness, make_model, make_tokenizer, trained
from small_models.training import Schedule
from transformers import AutoModelForCausalLM, AutoTokenizer

TINY = Settings(Schedule(steps=2, batch=2, rate=1e-3), 16, 300, 32, 2, 4, 2, 32, 4)


def test_the_experts_are_fused():
    model = make_model(QUICK, QUICK.vocabulary)
    shapes = {
        name.rsplit(".", 1)[-1]: tuple(value.shape) for name, value in model.named_parameters() if value.ndim == 3
    }
    assert shapes == {"gate_up_proj": (8, 128, 64), "down_proj": (8, 64, 64)}


def test_the_full_size_is_a_few_million_parameters_most_of_them_in_experts():
    model = make_model(Settings(), Settings().vocabulary)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert 5e6 < count < 1e7
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 3) > 0.8 * count


def test_a_tokenizer_gives_back_what_it_read():
    tokenizer = make_tokenizer("def add(first, second):\n    return first + second\n\n" * 20, 300)
    text = "def main():\n    return 'é 漢' + first\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("    return first")["input_ids"]) < 8


def test_a_trained_model_is_loaded_by_plain_transformers_and_made_once(text_file: Path, tmp_path: Path):
    folder = trained(TINY, f"{text_file}:raw", tmp_path / "cache")
    assert trained(TINY, f"{text_file}:raw", tmp_path / "cache") == folder
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    ids = tokenizer("Line 7 says that", return_tensors="pt")["input_ids"]
    assert torch.isfinite(model(input_ids=ids, labels=ids).loss)


def test_another_text_is_another_model(text_file: Path, tmp_path: Path):
    first = trained(TINY, f"{text_file}:raw", tmp_path / "cache")
    text_file.write_text(text_file.read_text().replace("squared", "doubled"))
    assert trained(TINY, f"{text_file}:raw", tmp_path / "cache") != first


def test_evenness_of_routers_that_are_even_and_that_are_not():
    model = make_model(TINY, 300).eval()
    ids = torch.randint(300, (4, 16), generator=torch.Generator().manual_seed(0))
    spread = evenness(model, ids)
    assert 0.7 < spread["entropy"] <= 1
    assert spread["least"] > 0.1
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate.weight.zero_()  # a draw, which is decided alike for all tokens
    found = evenness(model, ids)
    assert found["entropy"] == pytest.approx(0.5)  # two of four experts see all
    assert found["least"] == 0


def test_a_mixture_learns_in_seconds(text_file: Path, tmp_path: Path):
    settings = Settings(Schedule(steps=60, batch=4, rate=5e-3), 32, 300, 32, 2, 4, 2, 32, 4)
    folder = trained(settings, f"{text_file}:raw", tmp_path / "cache")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("Line 3 says that 3 squared is 9.\nLine 4 says that", return_tensors="pt")["input_ids"]
    assert model(input_ids=ids, labels=ids).loss < 3  # of a guess: 5.7
