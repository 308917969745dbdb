from __future__ import annotations

import pytest
import torch

from eckart.methods.sensitivity.cost import StepSeconds


def steps(samples: int, length: int, batch_tokens: int) -> StepSeconds:
    return StepSeconds(1.0, 1.0, 1.0, batch_tokens, 2, ((3, 4),), samples, length, torch.device("cpu"))


def test_batches_are_those_of_all_tokens() -> None:
    assert steps(12, 24, 96).batches == 3
    assert steps(3, 10, 20).batches == 1.5  # a batch that is not full takes part of its time


@pytest.mark.parametrize(
    ("asked", "found"),
    [((None, None), (12, 24)), ((4, None), (4, 24)), ((None, 8), (12, 8)), ((100, 100), (12, 24)), ((1, 2), (1, 2))],
)
def test_no_more_is_looked_at_than_there_is(asked: tuple[int | None, int | None], found: tuple[int, int]) -> None:
    assert steps(12, 24, 96).crop(*asked) == found
