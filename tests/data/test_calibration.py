from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from eckart.data.calibration import Calibration, calibrate
from eckart.data.draw import draw_samples
from eckart.errors import CalibrationError


def test_a_file_to_tokens(text_file: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    calibration = calibrate(str(text_file), samples=3, length=50, seed=5, tokenizer=tokenizer)
    assert calibration.ids.shape == (3, 50)
    record = calibration.record
    assert (record.source, record.samples, record.length, record.tokens, record.seed) == ("text.txt", 3, 50, 150, 5)
    ids = calibration.ids.flatten().tolist()
    assert record.sha256 == hashlib.sha256(struct.pack("<150q", *ids)).hexdigest()


def test_token_ids_above_16_bits_survive() -> None:
    tokens = torch.tensor([[70_000, 262_143]])
    calibration = calibrate(tokens, samples=0, length=0, seed=0)
    assert calibration.ids.tolist() == [[70_000, 262_143]]
    assert calibration.record.sha256 == hashlib.sha256(struct.pack("<2q", 70_000, 262_143)).hexdigest()


@pytest.mark.parametrize("tokens", [torch.zeros(3), torch.zeros(2, 2), torch.zeros(0, 4, dtype=torch.int64)])
def test_token_ids_of_another_kind(tokens: torch.Tensor) -> None:
    with pytest.raises(CalibrationError, match="integers of shape"):
        calibrate(tokens, samples=1, length=8, seed=0)


def test_text_sampled_from_the_model_itself(llama: PreTrainedModel) -> None:
    draws = [calibrate("self", samples=3, length=20, seed=seed, model=llama).ids for seed in (1, 1, 2)]
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
    calibration = Calibration(tokens, "x", 0)
    batches = [batch["input_ids"] for batch in calibration.batches()]
    assert torch.equal(torch.cat(batches), tokens)
    assert [len(batch) for batch in batches] == [3, 3, 1]
    for number, batch in enumerate(batches):
        alone = calibration.batch(number).tokens
        assert alone is not None
        assert torch.equal(alone, batch)
    assert torch.equal(calibration.inputs(torch.tensor([5, 2]))["input_ids"], tokens[[5, 2]])
    assert torch.equal(calibration.sample(6)["input_ids"], tokens[6:])
    assert len(list(Calibration(tokens.reshape(1, -1), "x", 0).batches())) == 1
    one_by_one = Calibration(tokens, "x", 0, one_by_one=True)
    assert [batch["input_ids"].shape for batch in one_by_one.batches()] == [(1, 600)] * 7


def test_samples_of_any_kind_are_run_one_by_one() -> None:
    items = [{"input_ids": torch.arange(n)[None], "pixel_values": torch.full((1, 2), float(n))} for n in (3, 5, 4)]
    found = calibrate([*items, {"pixel_values": torch.zeros(1, 2)}], samples=32, length=1024, seed=7)
    assert (len(found), found.at_once, found.length, found.token_count) == (4, 1, 5, 13)
    assert [torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(found.batches(), items, strict=False)]
    assert torch.equal(found.inputs(torch.tensor([1]))["input_ids"], items[1]["input_ids"])
    assert list(found.batch(2).batches()) == [found.items[2]]
    assert found.cropped(2, 2).items == found.items[:2]
    record = found.record
    assert (record.samples, record.length, record.tokens, record.seed) == (4, 5, 13, 7)
    changed = [{**items[0], "pixel_values": torch.zeros(1, 2)}, *items[1:]]
    hashes = {calibrate(given, samples=1, length=None, seed=7).record.sha256 for given in (items, items, changed)}
    assert len(hashes) == 2


def test_a_mixture_takes_samples_of_each_text_in_turn(
    tmp_path: Path, text_file: Path, tokenizer: PreTrainedTokenizerFast, llama: PreTrainedModel
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("another text altogether " * 400)
    parts = {
        text: calibrate(text, samples=count, length=16, seed=3, tokenizer=tokenizer, model=llama).ids
        for text, count in ((str(text_file), 4), (str(other), 2), ("self", 1))
    }
    mixture = f"{text_file} + {other} + {text_file}"
    mixed = calibrate(mixture, samples=5, length=16, seed=3, tokenizer=tokenizer)
    assert torch.equal(mixed.ids[1::3], parts[str(other)])
    assert torch.equal(mixed.ids[[0, 2, 3]], draw_samples_of(text_file, tokenizer, 3))
    assert mixed.record.source == "text.txt + other.txt + text.txt".replace("text.txt", text_file.name)
    with_self = calibrate(f"self + {other}", samples=2, length=16, seed=3, tokenizer=tokenizer, model=llama)
    assert torch.equal(with_self.ids[0], parts["self"][0])


def draw_samples_of(file: Path, tokenizer: PreTrainedTokenizerFast, count: int) -> torch.Tensor:
    return calibrate(str(file), samples=count, length=16, seed=3, tokenizer=tokenizer).ids


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
    assert calibrate("self", samples=8, length=8, seed=0, model=llama).ids.shape == (8, 8)
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


@pytest.mark.parametrize("samples", [1, 2, 5, 9])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_batches_are_dealt_out_whole(samples: int, parts: int) -> None:
    # Of 700 tokens, two samples are run at once.
    whole = Calibration(torch.arange(samples * 700).reshape(samples, 700), "numbers", 0)
    found = [whole.shared(part, parts) for part in range(parts)]
    assert sorted(n for one in found for n in one.own) == list(range(samples))
    batches = [{n // 2 for n in one.own} for one in found]
    assert sum(map(len, batches)) == len(set().union(*batches)) == -(-samples // 2)
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
    for one in found:
        rows = [row for batch in one.batches() for row in batch["input_ids"]]
        assert [int(row[0]) // 700 for row in rows] == one.own
        every = torch.arange(samples)
        assert one.kept(every).tolist() == one.own
        assert one.places(every).tolist() == list(range(len(one.own)))
        assert one.record == whole.record
