"""Each objective against the loss that it names, computed from raw activations."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from eckart.maths.lowrank import truncate
from eckart.maths.moments import Moments
from eckart.methods.objectives import Anchored, Blended, InputAware, Objective, ShiftAware, Weight
from eckart.methods.objectives.blended import aces, quadratic_roots

M, N, TOKENS, RANK = 7, 6, 80, 3
CPU = torch.device("cpu")


def data(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return a weight (m, n), and inputs (n, tokens) in the original and in the compressed model."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(N, N, generator=generator, dtype=torch.float64)
    original = mix @ torch.randn(N, TOKENS, generator=generator, dtype=torch.float64)
    compressed = original + 0.5 * torch.randn(N, TOKENS, generator=generator, dtype=torch.float64)
    return torch.randn(M, N, generator=generator, dtype=torch.float64), original, compressed


def exact_moments(inputs: Tensor, original: Tensor | None) -> Moments:
    shift = None if original is None else (original - inputs) @ inputs.T
    return Moments(inputs @ inputs.T, shift, inputs.shape[1])


def solution(objective: Objective, weight: Tensor, moments: Moments | None, rank: int = RANK) -> Tensor:
    whitening = objective.whitening(moments, N, CPU)
    second, first = truncate(objective.solution(weight, moments, whitening, rank), rank)
    return second @ first


def reduced_rank_regression(targets: Tensor, inputs: Tensor, rank: int) -> Tensor:
    """Return the best W' of a rank from raw activations, by a QR of the inputs."""
    basis, triangle = torch.linalg.qr(inputs.T)
    u, s, vt = torch.linalg.svd(targets @ basis, full_matrices=False)
    return torch.linalg.solve_triangular(triangle, ((u[:, :rank] * s[:rank]) @ vt[:rank]).T, upper=True).T


def test_weight() -> None:
    weight, _, _ = data()
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    torch.testing.assert_close(solution(Weight(), weight, None), (u[:, :RANK] * s[:RANK]) @ vt[:RANK])


def test_input_aware() -> None:
    weight, x, _ = data()
    expected = reduced_rank_regression(weight @ x, x, RANK)
    torch.testing.assert_close(solution(InputAware(), weight, exact_moments(x, None)), expected, rtol=1e-7, atol=1e-7)


def test_shift_aware() -> None:
    weight, _, z = data()
    expected = reduced_rank_regression(weight @ z, z, RANK)
    torch.testing.assert_close(solution(ShiftAware(), weight, exact_moments(z, None)), expected, rtol=1e-7, atol=1e-7)


def test_anchored() -> None:
    weight, x, z = data()
    expected = reduced_rank_regression(weight @ x, z, RANK)
    torch.testing.assert_close(solution(Anchored(), weight, exact_moments(z, x)), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("blend", [0.0, 0.4, 1.0])
def test_blended_with_a_fixed_blend(blend: float) -> None:
    weight, x, z = data()
    objective = Blended(beta_min=blend, beta_max=blend)
    expected = reduced_rank_regression(weight @ (blend * x + (1 - blend) * z), z, RANK)
    torch.testing.assert_close(solution(objective, weight, exact_moments(z, x)), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("objective", [InputAware, ShiftAware, Anchored, Blended])
def test_shrinkage_is_ridge_regression_towards_the_weight(objective: type) -> None:
    weight, x, z = data()
    share = 0.3
    paired = objective in (Anchored, Blended)
    numbers = {"beta_min": 1.0, "beta_max": 1.0} if objective is Blended else {}
    inputs = x if objective is InputAware else z
    amount = share * float(inputs.square().sum()) / N
    # t ||W' - W||^2 is what n more tokens, sqrt(t) times the unit vectors, add to the loss.
    more = amount**0.5 * torch.eye(N, dtype=torch.float64)
    targets = weight @ (x if paired or objective is InputAware else z)
    expected = reduced_rank_regression(
        torch.cat([targets, weight @ more], dim=1), torch.cat([inputs, more], dim=1), RANK
    )
    moments = exact_moments(inputs, x if paired else None)
    found = solution(objective(shrinkage=share, **numbers), weight, moments)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_damping_is_added_to_the_second_moment_only() -> None:
    weight, x, z = data()
    share = 0.2
    amount = share * float(z.square().sum()) / N
    root = torch.linalg.cholesky(z @ z.T + amount * torch.eye(N, dtype=torch.float64))
    target = weight @ x @ z.T  # P is not damped
    u, s, vt = torch.linalg.svd(torch.linalg.solve_triangular(root, target.T, upper=False).T, full_matrices=False)
    expected = torch.linalg.solve_triangular(root.T, ((u[:, :RANK] * s[:RANK]) @ vt[:RANK]).T, upper=True).T
    objective = Blended(beta_min=1.0, beta_max=1.0, damping=share)
    torch.testing.assert_close(solution(objective, weight, exact_moments(z, x)), expected, rtol=1e-7, atol=1e-7)


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
    moments = exact_moments(z, x)
    found = solution(Blended(beta_min=0.8, beta_max=0.8, beta_cap=0.5, beta_shrink=0.5), weight, moments)
    expected = solution(Blended(beta_min=0.25, beta_max=0.25), weight, moments)
    torch.testing.assert_close(found, expected)


def test_quadratic_roots() -> None:
    assert sorted(quadratic_roots(1, -3, 2)) == pytest.approx([1, 2])
    assert quadratic_roots(1, 0, 1) == []
    assert quadratic_roots(0, 2, -3) == pytest.approx([1.5])
    assert quadratic_roots(0, 0, 1) == []
    assert sorted(quadratic_roots(1, 1e8, 1)) == pytest.approx([-1e8, -1e-8])


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValidationError, match="above beta_max"):
        Blended(beta_min=0.8, beta_max=0.2)
    with pytest.raises(ValidationError):
        InputAware(shrinkage=-1)
