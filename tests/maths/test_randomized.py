"""What a sketch finds, against an SVD in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eckart.maths.randomized import Sketch, leading_left
from eckart.maths.whitening import whiten

RANK = 12
SPECTRA = {  # of 64 singular values
    "slow": torch.arange(1, 65, dtype=torch.float64) ** -0.5,
    "middle": torch.arange(1, 65, dtype=torch.float64) ** -1.0,
    "fast": torch.logspace(0, -6, 64, dtype=torch.float64),
    "flat": torch.ones(64, dtype=torch.float64),
    "step": torch.cat([torch.ones(RANK), 0.1 * torch.ones(64 - RANK)]).double(),
}


def problem(values: Tensor, shape: tuple[int, int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return W, (m, n), S, (n, n), and a root R of S, of which ``W R`` has the singular values."""
    generator = torch.Generator().manual_seed(seed)

    def random(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64)

    rows, columns = shape
    left = torch.linalg.qr(random(rows, len(values)))[0]
    right = torch.linalg.qr(random(columns, len(values)))[0]
    root = torch.eye(columns, dtype=torch.float64) + 0.2 * random(columns, columns) / columns**0.5
    return left * values @ right.T @ torch.linalg.inv(root), root @ root.T, root


def excess(seen: Tensor, vectors: Tensor, values: Tensor) -> float:
    """Return how much more than the least ``||M - U U^T M||^2`` is, as a share of the least."""
    lost = (seen - vectors @ (vectors.T @ seen)).square().sum()
    return float(lost / values[vectors.shape[1] :].square().sum() - 1)


@pytest.mark.parametrize("shape", [(64, 64), (64, 150), (150, 64)])
@pytest.mark.parametrize(
    ("spectrum", "most"), [("slow", 2e-3), ("middle", 5e-4), ("fast", 1e-9), ("flat", 1e-9), ("step", 1e-9)]
)
def test_little_more_is_lost_than_must_be(spectrum: str, most: float, shape: tuple[int, int]) -> None:
    values = SPECTRA[spectrum]
    for seed in range(5):
        weight, moment, root = problem(values, shape, seed)
        found = leading_left(whiten(moment), weight, RANK, Sketch(RANK + 8, 3, seed))
        assert found is not None
        torch.testing.assert_close(found.vectors.T @ found.vectors, torch.eye(RANK, dtype=torch.float64))
        assert -1e-9 < excess(weight @ root, found.vectors, values) < most
        assert float(found.energy) == pytest.approx(float(values.square().sum()))
        # What each vector is said to explain it does explain, and no more than the best would.
        explained = (found.vectors.T @ weight @ root).norm(dim=1)
        torch.testing.assert_close(explained, found.singular_values)
        assert (found.singular_values <= values[:RANK] * (1 + 1e-9)).all()


@pytest.mark.parametrize("shape", [(64, 64), (150, 64)])
@pytest.mark.parametrize("more", [8, 50])  # by products with W and S, or with W S W^T
def test_more_iterations_lose_less(more: int, shape: tuple[int, int]) -> None:
    weight, moment, root = problem(SPECTRA["slow"], shape)
    lost = []
    for iterations in range(5):
        found = leading_left(whiten(moment), weight, RANK, Sketch(RANK + more, iterations, 0))
        assert found is not None
        lost.append(excess(weight @ root, found.vectors, SPECTRA["slow"]))
    assert lost == sorted(lost, reverse=True)
    assert lost[0] > 10 * lost[-1]


def test_the_seed_says_what_is_found() -> None:
    weight, moment, _ = problem(SPECTRA["slow"], (64, 64))
    once, again, other = (leading_left(whiten(moment), weight, RANK, Sketch(20, 1, seed)) for seed in (3, 3, 4))
    assert once is not None
    assert again is not None
    assert other is not None
    assert torch.equal(once.vectors, again.vectors)
    assert not torch.equal(once.vectors, other.vectors)


@pytest.mark.parametrize("reached", [0, 5, RANK - 1])
def test_what_is_too_small_to_be_known_is_not_given(reached: int) -> None:
    values = torch.cat([torch.ones(reached), 1e-6 * torch.ones(64 - reached)]).double()
    weight, moment, _ = problem(values, (64, 64))
    found = leading_left(whiten(moment), weight, RANK, Sketch(RANK + 8, 3, 0))
    assert (found is None) == (reached > 0)  # where all are small none is, beside the others
    assert leading_left(whiten(moment), torch.zeros_like(weight), RANK, Sketch(RANK + 8, 3, 0)) is None
