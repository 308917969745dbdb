from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import tokens_of
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from eckart.data.calibration import Calibration, calibrate, rows_if_alike
from eckart.data.draw import draw_samples
from eckart.errors import CalibrationError


def test_a_file_to_tokens(text_file: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    calibration = calibrate(str(text_file), samples=3, length=50, seed=5, tokenizer=tokenizer)
    assert tokens_of(calibration).shape == (3, 50)
    record = calibration.record
    assert (record.source, record.samples, record.length, record.tokens, record.seed) == ("text.txt", 3, 50, 150, 5)
    ids = tokens_of(calibration).flatten().tolist()
    assert record.sha256 == hashlib.sha256(struct.pack("<150q", *ids)).hexdigest()


def test_token_ids_above_16_bits_survive() -> None:
    tokens = torch.tensor([[70_000, 262_143]])
    calibration = calibrate(tokens, samples=0, length=0, seed=0)
    assert tokens_of(calibration).tolist() == [[70_000, 262_143]]
    assert calibration.record.sha256 == hashlib.sha256(struct.pack("<2q", 70_000, 262_143)).hexdigest()


@pytest.mark.parametrize("tokens", [torch.zeros(3), torch.zeros(2, 2), torch.zeros(0, 4, dtype=torch.int64)])
def test_token_ids_of_another_kind(tokens: torch.Tensor) -> None:
    with pytest.raises(CalibrationError, match="integers of shape"):
        calibrate(tokens, samples=1, length=8, seed=0)


def test_text_sampled_from_the_model_itself(llama: PreTrainedModel) -> None:
    draws = [tokens_of(calibrate("self", samples=3, length=20, seed=seed, model=llama)) for seed in (1, 1, 2)]
    assert draws[0].shape == (3, 20)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    # It is the model's own distribution: greedy decoding of the same model finds the samples likelier than noise.
    noise = torch.randint(256, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert llama(draws[0], labels=draws[0]).loss < llama(noise, labels=noise).loss


def test_sampling_leaves_the_global_seed_alone(llama: PreTrainedModel) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    calibrate("self", samples=1, length=4, seed=1, model=llama)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "python-docs"}, "needs the model's tokenizer"),
        ({"source": "self"}, "no model was given"),
        ({"source": "python-docs", "samples": 0}, "at least 1 sample of 2 tokens"),
        ({"source": "python-docs", "length": 1}, "at least 1 sample of 2 tokens"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        calibrate(**{"samples": 2, "length": 8, "seed": 0, **arguments})


def test_samples_longer_than_the_context(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(CalibrationError, match=r"context of 128\. Use --length 128"):
        calibrate("python-docs", samples=1, length=129, seed=0, tokenizer=tokenizer, model=llama)


def test_batches_hold_every_sample_once() -> None:
    tokens = torch.arange(7 * 600).reshape(7, 600)
    batches = list(Calibration(tokens, "x", 0).batches())
    assert all(list(batch) == ["input_ids"] for batch in batches)
    assert torch.equal(torch.cat([batch["input_ids"] for batch in batches]), tokens)
    assert [len(batch["input_ids"]) for batch in batches] == [3, 3, 1]
    assert len(list(Calibration(tokens.reshape(1, -1), "x", 0).batches())) == 1


def test_rows_that_are_run_one_by_one() -> None:
    tokens = torch.arange(15).reshape(3, 5)
    batches = list(Calibration(tokens, "x", 0, one_by_one=True).batches())
    assert [batch["input_ids"].tolist() for batch in batches] == [[row] for row in tokens.tolist()]


def of_lengths(*lengths: int) -> Calibration:
    items = tuple({"input_ids": torch.arange(length)[None], "extra": torch.ones(1, 2)} for length in lengths)
    return Calibration(None, "samples", 4, items)


def test_samples_of_unequal_lengths_are_batches_of_one() -> None:
    known = of_lengths(3, 5, 2)
    assert (len(known), known.at_once, known.length, known.token_count) == (3, 1, 5, 10)
    assert list(known.batches()) == list(known.items)
    assert known.sample(1) is known.items[1]
    assert known.inputs(torch.tensor([2])) is known.items[2]
    assert known.batch(1).items == known.items[1:2]
    assert known.cropped(2, 1).items == known.items[:2]  # nobody knows what else to cut
    assert known.cropped(None, None).items == known.items


def test_parts_of_rows() -> None:
    tokens = torch.arange(3 * 1000).reshape(3, 1000)
    known = Calibration(tokens, "x", 0)
    assert known.at_once == 2
    assert torch.equal(tokens_of(known.batch(1)), tokens[2:])
    assert torch.equal(tokens_of(known.cropped(2, 7)), tokens[:2, :7])
    assert torch.equal(known.sample(1)["input_ids"], tokens[1:2])
    assert torch.equal(known.inputs(torch.tensor([2, 0]))["input_ids"], tokens[[2, 0]])


def test_samples_without_tokens_count_as_one() -> None:
    known = Calibration(None, "images", 0, ({"pixel_values": torch.zeros(1, 3, 4, 4)},) * 3)
    assert (known.length, known.token_count) == (1, 3)


def test_the_record_of_samples_tells_them_apart() -> None:
    record = of_lengths(3, 5).record
    assert (record.source, record.samples, record.length, record.tokens, record.seed) == ("samples", 2, 5, 8, 4)
    plain: dict[str, torch.Tensor] = {"input_ids": torch.arange(4)[None], "extra": torch.ones(1, 2)}
    others: list[dict[str, torch.Tensor]] = [
        plain,
        {**plain, "extra": torch.zeros(1, 2)},
        {**plain, "extra": torch.ones(2, 1)},
        {**plain, "extra": torch.ones(1, 2).bfloat16()},
        {"input_ids": plain["input_ids"], "other": plain["extra"]},
    ]
    hashes = [Calibration(None, "samples", 0, (item,)).record.sha256 for item in others]
    assert len(set(hashes)) == len(hashes)
    assert hashes[0] == Calibration(None, "samples", 0, (dict(reversed(plain.items())),)).record.sha256


def test_samples_that_are_rows_of_tokens_become_rows() -> None:
    ids = torch.arange(12).reshape(3, 1, 4)
    rows = tuple({"input_ids": row, "attention_mask": torch.ones(1, 4)} for row in ids)
    found = rows_if_alike(Calibration(None, "x", 2, rows))
    assert torch.equal(tokens_of(found), ids[:, 0])
    assert (found.items, found.seed) == ((), 2)
    for other in (
        {"input_ids": ids[0, :, :3]},
        {"input_ids": ids[0], "attention_mask": torch.tensor([[1, 0, 1, 1]])},
        {"input_ids": ids[0], "labels": ids[0]},
        {"pixel_values": torch.zeros(1, 4)},
    ):
        mixed = Calibration(None, "x", 2, (*rows, other))
        assert rows_if_alike(mixed) is mixed


def test_samples_that_are_handed_over_are_used_as_they_are(llama: PreTrainedModel) -> None:
    items = [{"input_ids": torch.arange(6).reshape(2, 3)}, {"input_ids": torch.arange(5)[None]}]
    found = calibrate(items, samples=1, length=8, seed=0, model=llama)
    assert found.tokens is None
    assert [item["input_ids"].shape[1] for item in found.items] == [3, 3, 5]


def test_what_is_no_calibration() -> None:
    with pytest.raises(CalibrationError, match="or a list of samples; found int"):
        calibrate(3, samples=1, length=8, seed=0)  # type: ignore[arg-type]


def test_a_mixture_takes_samples_of_each_text_in_turn(
    tmp_path: Path, text_file: Path, tokenizer: PreTrainedTokenizerFast, llama: PreTrainedModel
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("another text altogether " * 400)
    parts = {
        text: tokens_of(calibrate(text, samples=count, length=16, seed=3, tokenizer=tokenizer, model=llama))
        for text, count in ((str(text_file), 4), (str(other), 2), ("self", 1))
    }
    mixture = f"{text_file} + {other} + {text_file}"
    mixed = calibrate(mixture, samples=5, length=16, seed=3, tokenizer=tokenizer)
    assert torch.equal(tokens_of(mixed)[1::3], parts[str(other)])
    assert torch.equal(tokens_of(mixed)[[0, 2, 3]], draw_samples_of(text_file, tokenizer, 3))
    assert mixed.record.source == "text.txt + other.txt + text.txt".replace("text.txt", text_file.name)
    with_self = calibrate(f"self + {other}", samples=2, length=16, seed=3, tokenizer=tokenizer, model=llama)
    assert torch.equal(tokens_of(with_self)[0], parts["self"][0])


def draw_samples_of(file: Path, tokenizer: PreTrainedTokenizerFast, count: int) -> torch.Tensor:
    return tokens_of(calibrate(str(file), samples=count, length=16, seed=3, tokenizer=tokenizer))


def test_a_mixture_of_more_texts_than_samples(text_file: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(CalibrationError, match=r"2 texts need as many samples, found 1. Use --samples 2"):
        calibrate(f"{text_file} + {text_file}", samples=1, length=16, seed=0, tokenizer=tokenizer)


def test_the_missing_text_of_a_mixture_is_named(text_file: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(CalibrationError, match=r"No text is called 'missing.txt'"):
        calibrate(f"{text_file} + missing.txt", samples=2, length=16, seed=0, tokenizer=tokenizer)


def test_a_file_may_have_a_plus_in_its_name(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    file = tmp_path / "a + b.txt"
    file.write_text("one text only " * 100)
    assert calibrate(str(file), samples=2, length=16, seed=0, tokenizer=tokenizer).record.source == "a + b.txt"


@pytest.mark.parametrize("seed", [-1, 2**53, 2**70, -(2**70)])
def test_seeds_that_no_generator_takes(seed: int, tokens: torch.Tensor) -> None:
    with pytest.raises(CalibrationError, match=f"from 0 to 9007199254740991; found {seed}"):
        calibrate(tokens, samples=4, length=24, seed=seed)
    assert draw_samples(torch.arange(500), 4, 24, 2**53 - 1, "x").shape == (4, 24)


@pytest.mark.parametrize("source", ["{text}", "self", "{text} + self"])
def test_more_samples_than_memory_holds(
    source: str, text_file: Path, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    options = {"length": 32, "seed": 0, "tokenizer": tokenizer, "model": llama}
    with pytest.raises(CalibrationError, match=r"1000000000 samples of 32 tokens take .* GB of memory .* GB are free"):
        calibrate(source.format(text=text_file), samples=10**9, **options)


def test_logits_of_samples_of_the_model_are_counted(llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eckart.data.calibration.free_memory", lambda device: 4_000_000)
    assert tokens_of(calibrate("self", samples=8, length=8, seed=0, model=llama)).shape == (8, 8)
    with pytest.raises(CalibrationError, match="samples of 8 tokens take"):
        calibrate("self", samples=1_500, length=8, seed=0, model=llama)


def test_ids_and_lengths_that_the_model_does_not_have(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text_file: Path
) -> None:
    options = {"samples": 2, "length": None, "seed": 0, "model": llama}
    tokenizer.add_tokens(["squared"])
    with pytest.raises(CalibrationError, match=r"text.txt' has the token id 256, and the model's embedding has"):
        calibrate(str(text_file), tokenizer=tokenizer, **options)
    for ids, message in (
        (torch.full((2, 8), 256), "token id 256"),
        (torch.full((2, 8), -1), "token id -1"),
        (torch.zeros(2, 129, dtype=torch.int64), "Samples of 129 tokens do not fit .* Use a length of 128"),
    ):
        with pytest.raises(CalibrationError, match=message):
            calibrate(ids, **options)
