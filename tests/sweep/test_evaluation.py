"""What is measured on the model of a row."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tests.conftest import CONFIGS, make_model
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import eckart
from eckart.data.text import read_text
from eckart.errors import EckartError
from eckart.sweep.evaluation import DEFAULT_WINDOW, Evaluation, Stopwatch, stored_bytes

CPU = torch.device("cpu")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    path = tmp_path / "other.txt"
    path.write_text("\n".join(f"Another line, the {i}th." for i in range(100)))
    return path


def evaluation(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    *texts: Path,
    windows: int | None = 3,
    length: int | None = 32,
) -> Evaluation:
    return Evaluation.of(model, tokenizer, [str(text) for text in texts], windows, length, CPU)


def test_perplexities_are_those_of_the_library_on_each_text(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text_file: Path, other: Path
) -> None:
    found = evaluation(llama, tokenizer, text_file, other).perplexities(llama)
    assert list(found) == ["text.txt", "other.txt"]
    for path in (text_file, other):
        ids = torch.tensor(tokenizer(read_text(str(path))).input_ids)
        assert found[path.name] == eckart.perplexity(llama, ids, length=32, windows=3)
        assert (found[path.name].windows, found[path.name].length) == (3, 32)


def test_halves_are_widened_on_a_cpu(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text_file: Path
) -> None:
    measure = evaluation(llama, tokenizer, text_file)
    wide = copy.deepcopy(llama).bfloat16().float()
    narrow = copy.deepcopy(llama).bfloat16()
    assert measure.perplexities(narrow) == measure.perplexities(wide)
    assert narrow.dtype is torch.float32


def test_windows_are_as_long_as_the_model_takes(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text_file: Path
) -> None:
    assert evaluation(llama, tokenizer, text_file, length=None).length == 128 < DEFAULT_WINDOW


def test_what_is_measured_is_told_by_its_identity(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text_file: Path, other: Path
) -> None:
    first = evaluation(llama, tokenizer, text_file).identity
    assert evaluation(llama, tokenizer, text_file).identity == first
    text_file.write_text(text_file.read_text().replace("squared", "Squared"))
    changed = evaluation(llama, tokenizer, text_file).identity
    assert changed["texts"].keys() == first["texts"].keys()
    assert changed["texts"] != first["texts"]
    for same, options in (("length", {"windows": 2}), ("windows", {"length": 16})):
        found = evaluation(llama, tokenizer, text_file, **options).identity
        assert found[same] == first[same]
        assert found != changed
    assert evaluation(llama, tokenizer, text_file, other).identity != changed


def test_texts_that_cannot_be_measured_are_refused(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text_file: Path, tmp_path: Path
) -> None:
    short, same = tmp_path / "short.txt", tmp_path / "folder" / "text.txt"
    short.write_text("short")
    same.parent.mkdir()
    same.write_text(text_file.read_text())
    for texts, message in (
        ((), "A sweep needs at least one text to measure on"),
        ((tmp_path / "nowhere.txt",), r"No text is called .*nowhere\.txt"),
        ((short,), "has 5 tokens, and one window is 32"),
        ((text_file, same), r"Two texts are called 'text\.txt'\. Each needs a name of its own"),
    ):
        with pytest.raises(EckartError, match=message):
            evaluation(llama, tokenizer, *texts)
    with pytest.raises(EckartError, match=r"Windows of 129 tokens do not fit .* --window-length 128"):
        evaluation(llama, tokenizer, text_file, length=129)
    tokenizer.add_tokens(["squared"])
    with pytest.raises(EckartError, match=r"The text 'text\.txt' has the token id 256"):
        evaluation(llama, tokenizer, text_file)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stored_bytes_are_those_of_the_file_without_its_header(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Tied tensors are in it once."""
    model = make_model(kind)
    model.to(dtype)
    model.save_pretrained(tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    assert stored_bytes(model) == len(data) - header


def test_a_model_is_timed_beside_the_dense_one_which_stays_as_it_is(llama: PreTrainedModel) -> None:
    before = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    model = copy.deepcopy(llama)
    eckart.compress(model, "svd", 0.5)
    stopwatch = Stopwatch(llama, CPU)
    first, second = stopwatch.time(model), stopwatch.time(copy.deepcopy(llama))
    for found in (first, second):
        assert all(speed > 0 for speed in found.model_dump().values())
    assert {name: torch.equal(tensor, before[name]) for name, tensor in llama.state_dict().items()} == dict.fromkeys(
        before, True
    )
