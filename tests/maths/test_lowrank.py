from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eckart.maths.lowrank import minimum_loss, refit, solve, truncate
from eckart.maths.whitening import (
    FLOAT32_FLOOR,
    BlockRoot,
    Whitening,
    blockwise,
    whiten,
)

sizes = st.integers(2, 9)


def problem(out_features: int, in_features: int, tokens: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a weight (m, n), inputs Z (n, tokens) and targets T (m, tokens), features of very different size."""
    generator = torch.Generator().manual_seed(seed)
    scale = 10.0 ** torch.linspace(-2, 2, in_features, dtype=torch.float64)
    weight = torch.randn(out_features, in_features, generator=generator, dtype=torch.float64)
    inputs = scale[:, None] * torch.randn(in_features, tokens, generator=generator, dtype=torch.float64)
    noise = torch.randn(out_features, tokens, generator=generator, dtype=torch.float64)
    return weight, inputs, weight @ inputs + 3 * noise


def brute_force(targets: Tensor, inputs: Tensor, rank: int) -> Tensor:
    """Return the smallest loss from the raw activations: least squares onto an orthonormal basis of the inputs."""
    basis = torch.linalg.qr(inputs.T)[0].T  # (n or tokens, tokens), rows span those of the inputs
    inside = targets @ basis.T
    tail = torch.linalg.svdvals(inside)[rank:].square().sum()
    result: Tensor = targets.square().sum() - inside.square().sum() + tail
    return result


def best(weight: Tensor, inputs: Tensor, targets: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    solution = solve(whiten(inputs @ inputs.T), targets @ inputs.T, weight)
    second, first = truncate(solution, rank)
    return second @ first, minimum_loss(solution, rank, targets.square().sum())


@settings(max_examples=60)
@given(sizes, sizes, st.integers(1, 30), st.integers(0, 1000), st.data())
def test_loss_is_the_predicted_one_and_the_brute_force_minimum(
    m: int, n: int, tokens: int, seed: int, data: st.DataObject
) -> None:
    weight, inputs, targets = problem(m, n, tokens, seed)
    rank = data.draw(st.integers(1, min(m, n)))
    product, predicted = best(weight, inputs, targets, rank)
    attained = (targets - product @ inputs).square().sum()
    scale = targets.square().sum()
    assert torch.isfinite(product).all()
    assert torch.linalg.matrix_rank(product, rtol=1e-9) <= rank
    assert attained / scale == pytest.approx(float(predicted / scale), abs=1e-9)
    assert attained / scale == pytest.approx(float(brute_force(targets, inputs, rank) / scale), abs=1e-9)


@settings(max_examples=30)
@given(st.integers(0, 1000))
def test_no_perturbation_of_the_factors_lowers_the_loss(seed: int) -> None:
    weight, inputs, targets = problem(6, 5, 40, seed)
    second, first = truncate(solve(whiten(inputs @ inputs.T), targets @ inputs.T, weight), 2)
    loss = (targets - second @ first @ inputs).square().sum()
    generator = torch.Generator().manual_seed(seed)
    for size in (1e-1, 1e-3):
        for _ in range(10):
            moved_second = second + size * torch.randn(second.shape, generator=generator, dtype=torch.float64)
            moved_first = first * (1 + size * torch.randn(first.shape, generator=generator, dtype=torch.float64))
            assert (targets - moved_second @ moved_first @ inputs).square().sum() >= loss * (1 - 1e-12)


def test_equals_the_whitened_svd_by_cholesky() -> None:
    weight, inputs, targets = problem(7, 5, 60, seed=0)
    root = torch.linalg.cholesky(inputs @ inputs.T)
    whitened = torch.linalg.solve_triangular(root, inputs @ targets.T, upper=False).T  # P R^-T
    u, s, vt = torch.linalg.svd(whitened, full_matrices=False)
    expected = torch.linalg.solve_triangular(root.T, ((u[:, :3] * s[:3]) @ vt[:3]).T, upper=True).T
    torch.testing.assert_close(best(weight, inputs, targets, 3)[0], expected, rtol=1e-8, atol=1e-8)


def test_target_of_the_weight_itself_projects_on_the_eigenvectors_of_the_outputs() -> None:
    weight, inputs, _ = problem(7, 5, 60, seed=1)
    second_moment = inputs @ inputs.T
    vectors = torch.linalg.eigh(weight @ second_moment @ weight.T)[1][:, -3:]
    second, first = truncate(solve(whiten(second_moment), None, weight), 3)
    torch.testing.assert_close(second @ first, vectors @ vectors.T @ weight, rtol=1e-8, atol=1e-10)


def test_full_rank_returns_the_weight() -> None:
    weight, inputs, _ = problem(6, 4, 30, seed=2)
    second, first = truncate(solve(whiten(inputs @ inputs.T), None, weight), 4)
    torch.testing.assert_close(second @ first, weight)


@pytest.mark.parametrize("tokens", [0, 1, 3])
def test_directions_that_no_token_reaches_keep_the_weight(tokens: int) -> None:
    weight, inputs, _ = problem(6, 8, tokens, seed=3)
    second, first = truncate(solve(whiten(inputs @ inputs.T), None, weight), 6)
    torch.testing.assert_close(second @ first, weight)


def test_a_dead_feature_and_a_zero_weight_give_no_nan() -> None:
    weight, inputs, _ = problem(6, 5, 30, seed=4)
    inputs[2] = 0
    for candidate in (weight, torch.zeros_like(weight)):
        second, first = truncate(solve(whiten(inputs @ inputs.T), None, candidate), 3)
        assert torch.isfinite(second).all()
        assert torch.isfinite(first).all()
        assert (candidate @ inputs - second @ first @ inputs).square().sum() <= (candidate @ inputs).square().sum()


def test_identity_is_plain_svd() -> None:
    weight, _, _ = problem(6, 8, 1, seed=6)
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    second, first = truncate(solve(Whitening.identity(8), None, weight), 2)
    torch.testing.assert_close(second @ first, (u[:, :2] * s[:2]) @ vt[:2])


def test_factors_share_the_norm_of_each_component_evenly() -> None:
    weight, inputs, targets = problem(6, 5, 30, seed=7)
    second, first = truncate(solve(whiten(inputs @ inputs.T), targets @ inputs.T, weight), 4)
    torch.testing.assert_close(second.norm(dim=0), first.norm(dim=1))


@settings(max_examples=60)
@given(m=sizes, n=sizes, tokens=st.integers(1, 20), rank=st.integers(1, 5), seed=st.integers(0, 1000))
def test_refit_is_the_least_squares_of_the_outputs(m: int, n: int, tokens: int, rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight, inputs, _ = problem(m, n, tokens, seed)
    first = torch.randn(rank, n, generator=generator, dtype=torch.float64)
    second = torch.randn(m, rank, generator=generator, dtype=torch.float64)
    found = refit(second, first, weight, inputs @ inputs.T)
    assert torch.isfinite(found).all()
    hidden, outputs = first @ inputs, weight @ inputs
    expected = torch.linalg.lstsq(hidden.T, outputs.T, driver="gelsd").solution.T
    least = (outputs - expected @ hidden).norm().square()
    # Directions whose share of the second moment is below the floor stay as they were: this is what that can cost.
    unsolved = FLOAT32_FLOOR * rank * ((second - expected) * hidden.norm(dim=1)).norm().square()
    assert (outputs - found @ hidden).norm().square() <= least + unsolved + 1e-9 * outputs.norm().square()
    assert (outputs - found @ hidden).norm() <= (outputs - second @ hidden).norm() * (1 + 1e-6)


def test_refit_leaves_what_no_input_reaches() -> None:
    first = torch.eye(3, 5, dtype=torch.float64)
    second = torch.ones(4, 3, dtype=torch.float64)
    moment = torch.diag(torch.tensor([1.0, 1, 0, 1, 1], dtype=torch.float64))
    found = refit(second, first, torch.zeros(4, 5, dtype=torch.float64), moment)
    torch.testing.assert_close(found[:, :2], torch.zeros(4, 2, dtype=torch.float64))
    torch.testing.assert_close(found[:, 2], torch.ones(4, dtype=torch.float64))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.integers(0, 1000))
def test_a_metric_of_blocks_is_the_whole_one(number: int, size: int, n: int, seed: int) -> None:
    weight, inputs, targets = problem(number * size, n, 12, seed)
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randn(number, size, 2 * size, generator=generator, dtype=torch.float64)
    roots = torch.linalg.cholesky(blocks @ blocks.mT)
    whole = torch.block_diag(*roots)
    matrix = torch.randn(number * size, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(blockwise(roots, matrix), whole @ matrix)
    assert torch.equal(blockwise(whole, matrix), whole @ matrix)
    whitening, cross = whiten(inputs @ inputs.T), targets @ inputs.T
    found = solve(whitening, cross, weight, BlockRoot(roots, torch.linalg.inv(roots)))
    expected = solve(whitening, cross, weight, Whitening(whole, torch.linalg.inv(whole)))
    torch.testing.assert_close(found.singular_values, expected.singular_values)
    torch.testing.assert_close(found.basis @ found.dual.T, expected.basis @ expected.dual.T, atol=1e-6, rtol=1e-6)


@settings(max_examples=60)
@given(sizes, sizes, st.integers(0, 30), st.integers(0, 1000), st.data())
def test_of_a_rank_the_loss_is_that_of_the_whole_solution(
    m: int, n: int, tokens: int, seed: int, data: st.DataObject
) -> None:
    weight, inputs, _ = problem(m, n, tokens, seed)
    rank = data.draw(st.integers(1, min(m, n)))
    if data.draw(st.booleans()):
        inputs[data.draw(st.integers(0, n - 1))] = 0
    moment = inputs @ inputs.T
    factored = whiten(moment)
    assert factored.root.shape[0] == n  # from now on the root is used, and not the moment
    found = solve(whiten(moment), None, weight, rank=rank)
    whole = solve(factored, None, weight)
    assert found.basis.shape[1] >= rank
    assert found.singular_values.shape == whole.singular_values.shape == (min(m, n),)
    energy = (weight @ inputs).square().sum()
    for solution in (found, whole):
        second, first = truncate(solution, rank)
        lost = ((weight - second @ first) @ inputs).square().sum()
        torch.testing.assert_close(lost, minimum_loss(solution, rank, energy), rtol=1e-6, atol=1e-9 * float(energy))
        torch.testing.assert_close(
            lost, brute_force(weight @ inputs, inputs, rank), rtol=1e-6, atol=1e-9 * float(energy)
        )


def test_a_weight_of_zeros_is_solved_with_its_moment_alone() -> None:
    _, inputs, _ = problem(3, 5, 20, 0)
    second, first = truncate(solve(whiten(inputs @ inputs.T), None, torch.zeros(3, 5, dtype=torch.float64), rank=2), 2)
    assert torch.equal(second @ first, torch.zeros(3, 5, dtype=torch.float64))
