"""The blend that is fixed, and the one that ACES finds, against the definition of the paper."""

from __future__ import annotations

import pytest
import torch
from tests.methods.objectives.helpers import (
    RANK,
    M,
    N,
    data,
    moments_of,
    reduced_rank_regression,
    weight_of,
)
from torch import Tensor

from eckart.methods.objectives import (
    Blended,
)
from eckart.methods.objectives.blended import aces, quadratic_roots


@pytest.mark.parametrize("blend", [0.0, 0.4, 1.0])
def test_blended_with_a_fixed_blend(blend: float) -> None:
    weight, x, z = data()
    objective = Blended(beta_min=blend, beta_max=blend)
    expected = reduced_rank_regression(weight @ (blend * x + (1 - blend) * z), z, RANK)
    torch.testing.assert_close(weight_of(objective, weight, moments_of(z, x)), expected, rtol=1e-7, atol=1e-7)


def test_damping_is_added_to_the_second_moment_only() -> None:
    weight, x, z = data()
    share = 0.2
    amount = share * float(z.square().sum()) / N
    root = torch.linalg.cholesky(z @ z.T + amount * torch.eye(N, dtype=torch.float64))
    target = weight @ x @ z.T  # P is not damped
    u, s, vt = torch.linalg.svd(torch.linalg.solve_triangular(root, target.T, upper=False).T, full_matrices=False)
    expected = torch.linalg.solve_triangular(root.T, ((u[:, :RANK] * s[:RANK]) @ vt[:RANK]).T, upper=True).T
    objective = Blended(beta_min=1.0, beta_max=1.0, damping=share)
    torch.testing.assert_close(weight_of(objective, weight, moments_of(z, x)), expected, rtol=1e-7, atol=1e-7)


def tail_share(start: Tensor, direction: Tensor, beta: float) -> float:
    """The paper's definition, with explicit projections on the tails of the subspaces of ``start``."""
    u, _, vt = torch.linalg.svd(start, full_matrices=False)
    left = torch.eye(len(start), dtype=torch.float64) - u[:, :RANK] @ u[:, :RANK].T
    right = torch.eye(start.shape[1], dtype=torch.float64) - vt[:RANK].T @ vt[:RANK]
    mixed = start + beta * direction
    return float((left @ mixed @ right).square().sum() / mixed.square().sum())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.25, 0.75), (0.4, 0.4)])
def test_aces_minimises_the_tail_share_over_its_bounds(seed: int, bounds: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(M, N, generator=generator, dtype=torch.float64)
    direction = torch.randn(M, N, generator=generator, dtype=torch.float64)
    beta = aces(start, direction, RANK, *bounds)
    assert bounds[0] <= beta <= bounds[1]
    scheme = torch.linspace(*bounds, 201).tolist()
    assert tail_share(start, direction, beta) <= min(tail_share(start, direction, b) for b in scheme) + 1e-12


def test_aces_on_equal_streams_stays_within_its_bounds() -> None:
    start = torch.randn(M, N, dtype=torch.float64)
    assert 0.25 <= aces(start, torch.zeros_like(start), RANK, 0.25, 0.75) <= 0.75
    assert 0.25 <= aces(torch.zeros_like(start), torch.zeros_like(start), RANK, 0.25, 0.75) <= 0.75


def test_cap_and_shrink_are_applied_after_aces() -> None:
    weight, x, z = data()
    moments = moments_of(z, x)
    found = weight_of(Blended(beta_min=0.8, beta_max=0.8, beta_cap=0.5, beta_shrink=0.5), weight, moments)
    expected = weight_of(Blended(beta_min=0.25, beta_max=0.25), weight, moments)
    torch.testing.assert_close(found, expected)


def test_quadratic_roots() -> None:
    assert sorted(quadratic_roots(1, -3, 2)) == pytest.approx([1, 2])
    assert quadratic_roots(1, 0, 1) == []
    assert quadratic_roots(0, 2, -3) == pytest.approx([1.5])
    assert quadratic_roots(0, 0, 1) == []
    assert sorted(quadratic_roots(1, 1e8, 1)) == pytest.approx([-1e8, -1e-8])
