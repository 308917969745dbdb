from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.conftest import tokens_of
from tests.tiny import MASK, make

from eckart.data.answers import IGNORED
from eckart.data.calibration import calibrate
from eckart.data.processor import Inputs, Processor
from eckart.data.samples import Sample
from eckart.data.windows import read_windows
from eckart.errors import CalibrationError


def windows(name: str, text: Path, samples: int = 4, length: int = 20, seed: int = 0) -> list[Sample]:
    model, processor = make(name)
    return list(read_windows(str(text), Inputs.of(model), Processor.of(processor), samples, length, seed))


def test_a_decoder_reads_what_it_always_did(text_file: Path) -> None:
    model, names = make("llama")
    found = read_windows(str(text_file), Inputs.of(model), Processor.of(names), 5, 16, 3)
    assert all(list(sample) == ["input_ids"] for sample in found)
    expected = tokens_of(calibrate(str(text_file), samples=5, length=16, seed=3, tokenizer=names, model=model))
    assert torch.equal(torch.cat([sample["input_ids"] for sample in found]), expected)


def test_an_encoder_reads_between_its_special_tokens(text_file: Path) -> None:
    names = make("bert")[1]
    for sample in windows("bert", text_file):
        assert sample["input_ids"].shape == (1, 20)
        assert (int(sample["input_ids"][0, 0]), int(sample["input_ids"][0, -1])) == (
            names.cls_token_id,
            names.sep_token_id,
        )


def test_masked_tokens_are_the_labels(text_file: Path) -> None:
    plain = windows("bert", text_file)
    for sample, whole in zip(windows("bert-masked", text_file), plain, strict=True):
        there = sample["labels"] != IGNORED
        assert int(there.sum()) == 3  # 15 % of 18
        assert bool((sample["input_ids"][there] == MASK).all())
        assert torch.equal(torch.where(there, sample["labels"], sample["input_ids"]), whole["input_ids"])
    assert not torch.equal(windows("bert-masked", text_file, seed=1)[0]["labels"], sample["labels"])


def test_an_encoder_decoder_writes_the_second_half(text_file: Path) -> None:
    sample = windows("t5", text_file)[0]
    assert sample["input_ids"].shape == sample["labels"].shape == (1, 10)
    assert torch.equal(sample["decoder_input_ids"][:, 1:], sample["labels"][:, :-1])


@pytest.mark.parametrize(("name", "reads"), [("vit", "images"), ("clip", "images"), ("whisper", "sound")])
def test_text_for_what_reads_no_text_alone(name: str, reads: str, text_file: Path) -> None:
    with pytest.raises(CalibrationError, match=f"reads {reads}, and .*text.txt' is text. Expected a folder"):
        windows(name, text_file)


def test_windows_without_room(text_file: Path) -> None:
    with pytest.raises(CalibrationError, match="Samples of 2 tokens leave no room"):
        windows("bert", text_file, length=2)


def test_a_tokenizer_of_another_model(text_file: Path) -> None:
    model, names = make("bert")
    names.add_tokens(["squared"])
    with pytest.raises(CalibrationError, match=r"has the token id 264, and the model's embedding has 264 rows"):
        read_windows(str(text_file), Inputs.of(model), Processor.of(names), 2, 20, 0)
