"""Residual anchoring, against the loss that it names; and what inputs cannot tell of a target."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.methods.objectives.helpers import CPU, brute_force, moments_of
from tests.methods.objectives.helpers import data_with_means as data
from torch import Tensor

from eckart.maths.lowrank import truncate
from eckart.maths.moments import Moments, ResidualMoments
from eckart.methods.objectives import Anchored, Blended, InputAware
from eckart.methods.objectives.blended import aces

M, N, TOKENS, RANK = 5, 6, 60, 3


def residual_of(difference: Tensor, inputs: Tensor) -> ResidualMoments:
    return ResidualMoments(difference @ inputs.T, difference.sum(dim=1))


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("blend", [1.0, 0.4])
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 1))
def test_targets_carry_the_difference_of_the_residual_streams(
    blend: float, affine: bool, seed: int, share: float
) -> None:
    weight, x, z = data(seed, M, N, TOKENS)
    generator = torch.Generator().manual_seed(seed + 1)
    difference = 1 + torch.randn(M, TOKENS, generator=generator, dtype=torch.float64) + weight @ (x - z)
    targets = weight @ (blend * x + (1 - blend) * z) + share * difference
    options = {"affine": affine, "residual_anchoring": share}
    objective = Anchored(**options) if blend == 1 else Blended(beta_min=blend, beta_max=blend, **options)
    moments = moments_of(z, x)
    whitening = objective.whitening(moments, N, CPU)
    solution = objective.solution(weight, moments, whitening, RANK, residual=residual_of(difference, z))
    second, first = truncate(solution, RANK)
    if affine:
        expected, constant = brute_force(targets, z, RANK)
        assert solution.target_mean is not None
        torch.testing.assert_close(solution.target_mean, targets.mean(dim=1), rtol=1e-7, atol=1e-7)
        constant = constant[:, None]
        ours = second @ first @ z + (solution.target_mean - second @ first @ z.mean(dim=1))[:, None]
    else:
        full = torch.linalg.lstsq(z.T, targets.T).solution.T
        left = torch.linalg.svd(full @ z, full_matrices=False)[0][:, :RANK]
        expected, constant = left @ left.T @ full, torch.zeros(M, 1, dtype=torch.float64)
        ours = second @ first @ z
    least = (targets - expected @ z - constant).norm()
    assert (targets - ours).norm() == pytest.approx(float(least), rel=1e-4, abs=1e-6 * float(targets.norm()))


def test_aces_looks_at_the_target_as_it_is() -> None:
    weight, x, z = data(1, M, N, TOKENS)
    difference = torch.randn(M, TOKENS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    objective, moments = Blended(beta_min=0, beta_max=1, residual_anchoring=0.5), moments_of(z, x)
    whitening = objective.whitening(moments, N, CPU)
    start, direction = weight @ z @ z.T + 0.5 * difference @ z.T, weight @ (x - z) @ z.T
    beta = aces(start @ whitening.inverse.T, direction @ whitening.inverse.T, RANK, 0, 1)
    cross = objective.target(weight, moments, whitening, RANK, residual_of(difference, z)).cross
    torch.testing.assert_close(cross, start + beta * direction, rtol=1e-8, atol=1e-6)


@pytest.mark.parametrize("objective", [Anchored, Blended])
def test_a_share_of_zero_and_no_residual_change_nothing(objective: type) -> None:
    weight, x, z = data(1, M, N, TOKENS)
    moments: Moments = moments_of(z, x)
    whitening = objective().whitening(moments, N, CPU)
    plain = objective().target(weight, moments, whitening, RANK)
    difference = torch.ones(M, TOKENS, dtype=torch.float64)
    zero = objective(residual_anchoring=0).target(weight, moments, whitening, RANK, residual_of(difference, z))
    none = objective(residual_anchoring=1).target(weight, moments, whitening, RANK, None)
    assert torch.equal(plain.cross, zero.cross)
    assert torch.equal(plain.cross, none.cross)


def test_shares_out_of_range_and_objectives_of_one_stream_are_refused() -> None:
    with pytest.raises(ValidationError):
        Anchored(residual_anchoring=1.5)
    with pytest.raises(ValidationError):
        InputAware.model_validate({"residual_anchoring": 0.5})
    assert InputAware().residual_share == 0


def measured(apart: float, affine: bool) -> float:
    """Return the share of a linear whose target is the difference of two features that are ``apart`` in X'."""
    generator = torch.Generator().manual_seed(0)
    common, difference = (torch.randn(200, 1, generator=generator) for _ in range(2))
    common = common + 10 * affine
    inputs, original = (torch.cat([common, common + size * difference], dim=1) for size in (apart, 1.0))
    weight = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    moments = Moments.zeros(2, paired=True, device=CPU)
    moments.add(inputs, original)
    energy = float((original.double() @ weight.T).square().sum())
    objective = Anchored(affine=affine)
    return objective.unresolved(weight, moments, objective.whitening(moments, 2, CPU)) / energy


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("apart", [1.0, 1e-2, 1e-4])
def test_what_inputs_tell_is_resolved(apart: float, affine: bool) -> None:
    assert measured(apart, affine) == 0


@pytest.mark.parametrize(("apart", "affine"), [(3e-7, False), (3e-5, True)])
def test_a_target_that_inputs_hardly_tell_is_said_to_be_unresolved(apart: float, affine: bool) -> None:
    assert measured(apart, affine) > 0.02


@pytest.mark.parametrize("affine", [False, True])
def test_inputs_that_are_the_same_hide_nothing(affine: bool) -> None:
    assert measured(0.0, affine) < 1e-6
