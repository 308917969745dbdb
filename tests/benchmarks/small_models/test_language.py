from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from small_models.decoder import Settings, make_model, make_tokenizer
from small_models.language import Language, trained_on_text
from small_models.training import Schedule
from transformers import AutoModelForCausalLM

TINY = Settings(Schedule(steps=2, batch=2, rate=1e-3), 16, 300, 32, 1, 32, 2)


def test_a_model_is_made_once_for_each_text_and_setting(text_file: Path, tmp_path: Path):
    kind = Language("small", 1, make_tokenizer, make_model)
    folder = trained_on_text(kind, TINY, f"{text_file}:raw", tmp_path / "cache")
    assert folder == trained_on_text(kind, TINY, f"{text_file}:raw", tmp_path / "cache")
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16
    both = trained_on_text(kind, TINY, f"{text_file}:raw + {text_file}:lines", tmp_path / "cache")
    seeded = trained_on_text(kind, replace(TINY, seed=1), f"{text_file}:raw", tmp_path / "cache")
    assert len({folder, both, seeded}) == 3
