"""What penalties count, and how much in which step."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from eckart.methods.preparation.penalty import StableRank, Tail

MATRIX = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))


def tail_of(matrix: Tensor, rank: int) -> float:
    return float(torch.linalg.svdvals(matrix.double())[rank:].square().sum())


def test_the_tail_is_a_share_of_the_energy_before() -> None:
    found = Tail().of(MATRIX, 2, 4.0, 0, None)
    assert float(found.value) == pytest.approx(tail_of(MATRIX, 2) / 4, rel=1e-5)
    # Of one component the derivative is twice its size, in its own direction.
    left, values, right = torch.linalg.svd(MATRIX, full_matrices=False)
    assert float(left[:, 4] @ found.gradient @ right[4]) == pytest.approx(2 * float(values[4]) / 4, rel=1e-4)
    assert float(left[:, 1] @ found.gradient @ right[1]) == pytest.approx(0, abs=1e-5)


def test_vectors_are_found_again_after_some_steps() -> None:
    penalty, other = Tail(refresh=3), MATRIX.flip(0)
    first = penalty.of(MATRIX, 2, 1.0, 0, None)
    kept = penalty.of(other, 2, 1.0, 1, first.vectors)
    assert torch.equal(kept.vectors, first.vectors)
    assert float(kept.value) > tail_of(other, 2)
    again = penalty.of(other, 2, 1.0, 3, kept.vectors)
    assert float(again.value) == pytest.approx(tail_of(other, 2), rel=1e-5)
    assert (Tail(refresh=3).decomposes_every, StableRank().decomposes_every) == (3, float("inf"))


def test_the_stable_rank_does_not_ask_for_the_rank() -> None:
    values = torch.linalg.svdvals(MATRIX.double())
    expected = float(values.square().sum() / values[0] ** 2)
    for rank in (1, 4):
        assert float(StableRank().of(MATRIX, rank, 3.0, 0, None).value) == pytest.approx(expected, rel=1e-3)


def test_weights_by_step() -> None:
    assert [Tail(weight=3.0).at(step) for step in (0, 5, 100)] == [3.0] * 3
    published = StableRank()
    assert published.at(0) == pytest.approx(1e-4)
    assert published.at(4) == pytest.approx(1e-2)
    assert [published.at(step) for step in (10, 11, 900)] == [10.0] * 3
    assert StableRank(rise=0).at(0) == 10.0
    for wrong in ({"weight": -1}, {"refresh": 0}):
        with pytest.raises(ValidationError):
            Tail.model_validate(wrong)
    for wrong in ({"first_weight": 0}, {"iterations": 0}, {"rise": -1}):
        with pytest.raises(ValidationError):
            StableRank.model_validate(wrong)
