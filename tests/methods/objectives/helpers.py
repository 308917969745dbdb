"""Raw activations in two models, and the equation solved from them with no moments in between."""

from __future__ import annotations

import torch
from torch import Tensor

from eckart.maths.lowrank import truncate
from eckart.maths.moments import Moments, ResidualMoments
from eckart.maths.whitening import Whitening
from eckart.methods.objectives import Objective

M, N, TOKENS, RANK = 7, 6, 80, 3
CPU = torch.device("cpu")


def data(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return a weight (m, n), and inputs (n, tokens) in the original and in the compressed model."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(N, N, generator=generator, dtype=torch.float64)
    original = mix @ torch.randn(N, TOKENS, generator=generator, dtype=torch.float64)
    compressed = original + 0.5 * torch.randn(N, TOKENS, generator=generator, dtype=torch.float64)
    return torch.randn(M, N, generator=generator, dtype=torch.float64), original, compressed


def data_with_means(seed: int, m: int, n: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a weight, and inputs with large means in the original and the compressed model."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    original = normal(n, n) @ normal(n, tokens) + 5 * normal(n, 1)
    return normal(m, n), original, original + 0.3 * normal(n, tokens) + 2 * normal(n, 1)


def moments_of(inputs: Tensor, original: Tensor | None) -> Moments:
    return Moments(
        inputs @ inputs.T,
        None if original is None else (original - inputs) @ inputs.T,
        inputs.abs().sum(dim=1),
        inputs.shape[1],
        inputs.sum(dim=1),
        None if original is None else original.sum(dim=1),
    )


def weight_of(objective: Objective, weight: Tensor, moments: Moments | None, rank: int = RANK) -> Tensor:
    whitening = objective.whitening(moments, N, CPU)
    second, first = truncate(objective.solution(weight, moments, whitening, rank), rank)
    return second @ first


def found(
    objective: Objective,
    weight: Tensor,
    moments: Moments,
    rank: int,
    *,
    metric: Whitening | None = None,
    projectors: Tensor | None = None,
    residual: ResidualMoments | None = None,
) -> tuple[Tensor, Tensor]:
    """Return W' and c."""
    whitening = objective.whitening(moments, weight.shape[1], CPU)
    solution = objective.solution(
        weight, moments, whitening, rank, metric=metric, projectors=projectors, residual=residual
    )
    second, first = truncate(solution, rank)
    assert solution.target_mean is not None
    return second @ first, solution.target_mean - second @ first @ moments.mean


def reduced_rank_regression(targets: Tensor, inputs: Tensor, rank: int) -> Tensor:
    """Return the best W' of a rank from raw activations, by a QR of the inputs."""
    basis, triangle = torch.linalg.qr(inputs.T)
    u, s, vt = torch.linalg.svd(targets @ basis, full_matrices=False)
    result: Tensor = torch.linalg.solve_triangular(triangle, ((u[:, :rank] * s[:rank]) @ vt[:rank]).T, upper=True).T
    return result


def brute_force(targets: Tensor, inputs: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return W' and c by least squares with a row of ones, and a truncated SVD of what it fits."""
    ones = torch.ones(1, inputs.shape[1], dtype=torch.float64)
    both = torch.linalg.lstsq(torch.cat([inputs, ones]).T, targets.T, driver="gelsd").solution.T
    weight = both[:, :-1]
    fitted = weight @ (inputs - inputs.mean(dim=1, keepdim=True))
    left = torch.linalg.svd(fitted, full_matrices=False)[0][:, :rank]
    weight = left @ left.T @ weight
    return weight, targets.mean(dim=1) - weight @ inputs.mean(dim=1)
