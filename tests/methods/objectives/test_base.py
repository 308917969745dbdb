"""What objectives that look at activations have in common: shrinkage, and a bias from the means.

A bias is tested against the same problem with a row of ones added to the inputs.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.methods.objectives.helpers import (
    CPU,
    RANK,
    N,
    brute_force,
    data,
    data_with_means,
    found,
    moments_of,
    reduced_rank_regression,
    weight_of,
)
from torch import Tensor

from eckart.maths.lowrank import truncate
from eckart.maths.moments import Moments
from eckart.maths.soft_truncation import add_projector
from eckart.methods.objectives import (
    ActivationScaled,
    Anchored,
    Blended,
    DataAwareObjective,
    InputAware,
    PrincipalOutputs,
    ShiftAware,
)

OBJECTIVES = {
    "input-aware": InputAware(affine=True),
    "shift-aware": ShiftAware(affine=True),
    "anchored": Anchored(affine=True),
    "blended": Blended(beta_min=0.3, beta_max=0.3, affine=True),
}


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
    moments = moments_of(inputs, x if paired else None)
    found = weight_of(objective(shrinkage=share, **numbers), weight, moments)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def streams_of(name: str, weight: Tensor, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Moments]:
    """Return Z, T and the moments of an objective."""
    if name == "input-aware":
        return x, weight @ x, moments_of(x, None)
    if name == "shift-aware":
        return z, weight @ z, moments_of(z, None)
    return z, weight @ (x if name == "anchored" else 0.3 * x + 0.7 * z), moments_of(z, x)


@pytest.mark.parametrize("name", OBJECTIVES)
@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6), m=st.integers(2, 8), n=st.integers(2, 8), more=st.integers(5, 40), share=st.floats(0, 1)
)
def test_equals_least_squares_with_a_row_of_ones(name: str, seed: int, m: int, n: int, more: int, share: float) -> None:
    weight, x, z = data_with_means(seed, m, n, n + more)
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
    weight, x, z = data_with_means(3, 6, 12, 7)
    inputs, targets, moments = streams_of(name, weight, x, z)
    product, constant = found(OBJECTIVES[name], weight, moments, 6)
    torch.testing.assert_close(product @ inputs + constant[:, None], targets, rtol=1e-5, atol=1e-5)
    # Directions of features that are scaled to one size, as everywhere.
    scale = inputs.norm(dim=1, keepdim=True)
    unseen = scale * torch.linalg.svd((inputs - inputs.mean(dim=1, keepdim=True)) / scale)[0][:, 6:]
    torch.testing.assert_close(product @ unseen, weight @ unseen, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_shrinkage_goes_with_it(name: str) -> None:
    weight, x, z = data_with_means(4, 5, 6, 60)
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
    weight, x, _ = data_with_means(5, 5, 6, 60)
    moments = moments_of(x, None)
    projectors = torch.zeros(5, 5, dtype=torch.float64)
    for sequence in (weight @ x).T.reshape(6, 10, 5):
        add_projector(projectors, sequence, 2)
    cases: list[tuple[DataAwareObjective, dict[str, Any]]] = [
        (ActivationScaled(affine=True), {}),
        (PrincipalOutputs(affine=True), {"projectors": projectors}),
    ]
    for objective, options in cases:
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
    weight, x, z = data_with_means(seed, 5, 6, 400)
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
    result: Tensor = (targets - product @ inputs - constant[:, None]).norm()
    return result


def test_without_it_nothing_looks_at_means() -> None:
    weight, x, z = data_with_means(7, 5, 6, 60)
    moments = moments_of(z, x)
    moments.sum = moments.original_sum = None
    objective = Anchored()
    assert objective.solution(weight, moments, objective.whitening(moments, 6, CPU), 3).target_mean is None
    assert not objective.adds_bias


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValidationError, match="above beta_max"):
        Blended(beta_min=0.8, beta_max=0.2)
    with pytest.raises(ValidationError):
        InputAware(shrinkage=-1)
