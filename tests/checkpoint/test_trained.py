"""Who trains numbers that cannot be trained is told so, once."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from tests.conftest import make_model
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer, TrainingArguments

import eckart
from eckart.checkpoint.trained import warn_of_codes
from eckart.errors import EckartWarning


def compressed(*settings: str) -> PreTrainedModel:
    model = make_model("qwen2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EckartWarning)
        eckart.compress(model, "svd", 0.4, overrides=settings)
    return model


def train(model: PreTrainedModel, folder: Path) -> None:
    arguments = TrainingArguments(str(folder), max_steps=1, report_to="none", use_cpu=True, disable_tqdm=True)
    Trainer(model, arguments, train_dataset=[{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}])


def test_a_trainer_of_few_bits_says_what_it_trains(tmp_path: Path) -> None:
    model = compressed("precision=4-bit")
    report = r"\d+ weights of this Qwen2ForCausalLM are held in few bits: .*scales.*get_peft_model"
    with pytest.warns(EckartWarning, match=report):
        train(model, tmp_path)
    train(model, tmp_path)  # nothing new, and a warning would be an error


def test_a_model_that_was_loaded_too(tmp_path: Path) -> None:
    model = make_model("qwen2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EckartWarning)
        eckart.save(model, eckart.compress(model, "svd", 0.4, overrides=["precision=8-bit"]), tmp_path / "small")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    with pytest.warns(EckartWarning, match="in few bits"):
        train(loaded, tmp_path)


def test_sixteen_bits_train_as_they_are(tmp_path: Path) -> None:
    train(compressed(), tmp_path)


def test_numbers_that_are_not_trained_are_not_spoken_of() -> None:
    model = compressed("precision=4-bit")
    with pytest.warns(EckartWarning, match="in few bits"):
        assert warn_of_codes(model)
    assert not warn_of_codes(model.requires_grad_(False))


def test_copies_forget_whose_they_were() -> None:
    model = compressed("precision=4-bit")
    for quantizer in (copy.deepcopy(model).hf_quantizer, pickle.loads(pickle.dumps(model.hf_quantizer))):
        assert quantizer.is_trainable
    assert torch.equal(copy.deepcopy(model)(torch.arange(8)[None]).logits, model(torch.arange(8)[None]).logits)
