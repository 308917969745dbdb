from __future__ import annotations

import math

import pytest
import torch

from eckart.evaluate.scores import LOSS, ratio_and_error, score_of


def test_items_of_one_size_are_a_plain_mean() -> None:
    mean, error = ratio_and_error([1.0, 2.0, 6.0], [1, 1, 1])
    assert mean == 3
    assert error == pytest.approx(float(torch.tensor([1.0, 2.0, 6.0]).std()) / math.sqrt(3))
    assert ratio_and_error([4.0], [2]) == (2.0, None)


def test_the_error_of_items_of_many_sizes() -> None:
    """The spread of the ratio over many draws is what one draw says it is."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(1, 20, (2000, 60), generator=generator).double()
    levels = 3 + torch.randn(2000, 60, generator=generator, dtype=torch.float64)
    found = [ratio_and_error((c * x).tolist(), c.tolist()) for c, x in zip(counts, levels, strict=True)]
    spread = float(torch.tensor([mean for mean, _ in found]).std())
    said = sum(error for _, error in found if error is not None) / len(found)
    assert said == pytest.approx(spread, rel=0.05)


def test_a_difference_is_of_pairs() -> None:
    ours, theirs = [10.0, 20.0, 31.0], [9.0, 19.0, 29.0]
    found = score_of(LOSS, ours, [1, 1, 1], "tokens", theirs)
    assert found.difference == pytest.approx(4 / 3)
    assert found.difference_error is not None
    assert found.error is not None
    assert found.difference_error < found.error / 10
    assert found.perplexity == pytest.approx(math.exp(found.value))
    assert (found.baseline, found.of, found.items) == (19, "3 tokens of 3 items", 3)


def test_without_a_baseline() -> None:
    found = score_of("accuracy", [1.0, 0.0], [1, 1], "items")
    assert (found.value, found.baseline, found.difference, found.perplexity, found.of) == (
        0.5,
        None,
        None,
        None,
        "2 items",
    )
