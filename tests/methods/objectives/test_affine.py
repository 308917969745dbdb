"""A bias from the means, against the same problem with a row of ones added to the inputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eckart.maths.lowrank import truncate
from eckart.maths.moments import Moments
from eckart.maths.soft_truncation import add_projector
from eckart.methods.objectives import (
    ActivationScaled,
    Anchored,
    Blended,
    InputAware,
    Objective,
    PrincipalOutputs,
    ShiftAware,
)

CPU = torch.device("cpu")
OBJECTIVES = {
    "input-aware": InputAware(affine=True),
    "shift-aware": ShiftAware(affine=True),
    "anchored": Anchored(affine=True),
    "blended": Blended(beta_min=0.3, beta_max=0.3, affine=True),
}


def data(seed: int, m: int, n: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
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


def streams_of(name: str, weight: Tensor, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Moments]:
    """Return Z, T and the moments of an objective."""
    if name == "input-aware":
        return x, weight @ x, moments_of(x, None)
    if name == "shift-aware":
        return z, weight @ z, moments_of(z, None)
    return z, weight @ (x if name == "anchored" else 0.3 * x + 0.7 * z), moments_of(z, x)


def found(
    objective: Objective, weight: Tensor, moments: Moments, rank: int, **options: Tensor
) -> tuple[Tensor, Tensor]:
    """Return W' and c."""
    whitening = objective.whitening(moments, weight.shape[1], CPU)
    solution = objective.solution(weight, moments, whitening, rank, **options)
    second, first = truncate(solution, rank)
    assert solution.target_mean is not None
    return second @ first, solution.target_mean - second @ first @ moments.mean


def brute_force(targets: Tensor, inputs: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return W' and c by least squares with a row of ones, and a truncated SVD of what it fits."""
    ones = torch.ones(1, inputs.shape[1], dtype=torch.float64)
    both = torch.linalg.lstsq(torch.cat([inputs, ones]).T, targets.T, driver="gelsd").solution.T
    weight = both[:, :-1]
    fitted = weight @ (inputs - inputs.mean(dim=1, keepdim=True))
    left = torch.linalg.svd(fitted, full_matrices=False)[0][:, :rank]
    weight = left @ left.T @ weight
    return weight, targets.mean(dim=1) - weight @ inputs.mean(dim=1)


@pytest.mark.parametrize("name", OBJECTIVES)
@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6), m=st.integers(2, 8), n=st.integers(2, 8), more=st.integers(5, 40), share=st.floats(0, 1)
)
def test_equals_least_squares_with_a_row_of_ones(name: str, seed: int, m: int, n: int, more: int, share: float) -> None:
    weight, x, z = data(seed, m, n, n + more)
    inputs, targets, moments = streams_of(name, weight, x, z)
    rank = max(1, round(share * min(m, n)))
    product, constant = found(OBJECTIVES[name], weight, moments, rank)
    expected, expected_constant = brute_force(targets, inputs, rank)
    loss = (targets - product @ inputs - constant[:, None]).norm()
    least = (targets - expected @ inputs - expected_constant[:, None]).norm()
    # The loss and not the weight: two components may be equally large.
    assert loss <= least + 1e-6 * targets.norm()
    centred = (targets - targets.mean(dim=1, keepdim=True)).norm()
    assert loss == pytest.approx(float(least), rel=1e-4, abs=1e-6 * float(centred))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_fewer_tokens_than_features_are_fitted_and_the_rest_of_the_weight_is_kept(name: str) -> None:
    weight, x, z = data(3, 6, 12, 7)
    inputs, targets, moments = streams_of(name, weight, x, z)
    product, constant = found(OBJECTIVES[name], weight, moments, 6)
    torch.testing.assert_close(product @ inputs + constant[:, None], targets, rtol=1e-5, atol=1e-5)
    # Directions of features that are scaled to one size, as everywhere.
    scale = inputs.norm(dim=1, keepdim=True)
    unseen = scale * torch.linalg.svd((inputs - inputs.mean(dim=1, keepdim=True)) / scale)[0][:, 6:]
    torch.testing.assert_close(product @ unseen, weight @ unseen, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_shrinkage_and_metric_go_with_it(name: str) -> None:
    weight, x, z = data(4, 5, 6, 60)
    inputs, targets, moments = streams_of(name, weight, x, z)
    share, rank = 0.2, 3
    objective = OBJECTIVES[name].model_copy(update={"shrinkage": share})
    product, constant = found(objective, weight, moments, rank)
    centred = inputs - inputs.mean(dim=1, keepdim=True)
    amount = (share * centred.square().sum() / 6).sqrt()
    goal = targets - targets.mean(dim=1, keepdim=True)
    more = amount * torch.eye(6, dtype=torch.float64)
    wide, goals = torch.cat([centred, more], dim=1), torch.cat([goal, weight @ more], dim=1)
    full = torch.linalg.lstsq(wide.T, goals.T).solution.T
    left = torch.linalg.svd(full @ wide, full_matrices=False)[0][:, :rank]
    torch.testing.assert_close(product, left @ left.T @ full, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(constant, targets.mean(dim=1) - product @ inputs.mean(dim=1))


def test_objectives_with_factors_of_their_own_make_up_for_the_mean_too() -> None:
    weight, x, _ = data(5, 5, 6, 60)
    moments = moments_of(x, None)
    projectors = torch.zeros(5, 5, dtype=torch.float64)
    for sequence in (weight @ x).T.reshape(6, 10, 5):
        add_projector(projectors, sequence, 2)
    for objective, options in (
        (ActivationScaled(affine=True), {}),
        (PrincipalOutputs(affine=True), {"projectors": projectors}),
    ):
        product, constant = found(objective, weight, moments, 2, **options)
        torch.testing.assert_close(constant, (weight - product) @ x.mean(dim=1))
        plain = objective.model_copy(update={"affine": False})
        solution = plain.solution(weight, moments, plain.whitening(moments, 6, CPU), 2, **options)
        assert solution.target_mean is None
        second, first = truncate(solution, 2)
        torch.testing.assert_close(product, second @ first)


@pytest.mark.parametrize("name", ["shift-aware", "anchored", "blended"])
@pytest.mark.parametrize("seed", range(8))
def test_a_feature_that_never_changes_leaves_its_weight_to_the_bias(name: str, seed: int) -> None:
    """Its variance is zero but for rounding, which must not be taken for data."""
    weight, x, z = data(seed, 5, 6, 400)
    x[2], z[2] = 1000 + 37.7 * seed, 1010 + 17.3 * seed
    moments = Moments.zeros(6, paired=name != "shift-aware", device=CPU)
    for part in torch.arange(400).split(100):
        moments.add(z[:, part].T, x[:, part].T if name != "shift-aware" else None)
    whitening = OBJECTIVES[name].whitening(moments, 6, CPU)
    assert whitening.root.shape == (6, 5)
    product, constant = found(OBJECTIVES[name], weight, moments, 5)
    inputs, targets, _ = streams_of(name, weight, x, z)
    torch.testing.assert_close(product[:, 2], weight[:, 2], rtol=1e-2, atol=1e-2)
    error = (targets - product @ inputs - constant[:, None]).norm()
    assert error < 1e-3 * (targets - targets.mean(dim=1, keepdim=True)).norm() + 1.01 * least(targets, inputs, 5)


def least(targets: Tensor, inputs: Tensor, rank: int) -> Tensor:
    product, constant = brute_force(targets, inputs, rank)
    return (targets - product @ inputs - constant[:, None]).norm()


def test_without_it_nothing_looks_at_means() -> None:
    weight, x, z = data(7, 5, 6, 60)
    moments = moments_of(z, x)
    moments.sum = moments.original_sum = None
    objective = Anchored()
    assert objective.solution(weight, moments, objective.whitening(moments, 6, CPU), 3).target_mean is None
    assert not objective.adds_bias
