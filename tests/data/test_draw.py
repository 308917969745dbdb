from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from eckart.data.draw import draw_samples, tokenize
from eckart.errors import CalibrationError


def test_windows_do_not_overlap_while_there_is_enough_text() -> None:
    ids = torch.arange(1000)
    samples = draw_samples(ids, samples=10, length=100, seed=0, source="x")
    assert sorted(samples.flatten().tolist()) == ids.tolist()
    assert (samples.diff(dim=1) == 1).all()


def test_a_short_text_gives_overlapping_windows() -> None:
    samples = draw_samples(torch.arange(150), samples=10, length=100, seed=0, source="x")
    assert samples.shape == (10, 100)
    assert (samples.diff(dim=1) == 1).all()


def test_the_seed_decides() -> None:
    ids = torch.arange(5000)
    draws = [draw_samples(ids, samples=4, length=50, seed=seed, source="x") for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_too_little_text() -> None:
    with pytest.raises(CalibrationError, match=r"too short: 99 tokens, and one sample is 100"):
        draw_samples(torch.arange(99), samples=1, length=100, seed=0, source="x")


def test_tokenize_gives_64_bit_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenize("abc", tokenizer)
    assert ids.dtype is torch.int64
    assert tokenizer.decode(ids) == "abc"
