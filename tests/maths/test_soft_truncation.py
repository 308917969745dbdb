from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eckart.maths import soft_truncation
from eckart.maths.soft_truncation import add_projector, gate, leading_subspace, soft_truncate

DOUBLE = torch.float64


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def scalar(value: float, **options) -> torch.Tensor:
    return torch.tensor(value, dtype=DOUBLE, **options)


def with_values(values: list[float], tokens: int, features: int) -> torch.Tensor:
    """Return (tokens, features) with these singular values."""
    left, right = torch.linalg.qr(random(tokens, len(values)))[0], torch.linalg.qr(random(features, len(values)))[0]
    result: torch.Tensor = left @ torch.diag(torch.tensor(values, dtype=DOUBLE)) @ right.T
    return result


def through_the_svd(activations: torch.Tensor, position: torch.Tensor, sharpness: float) -> torch.Tensor:
    """The definition, differentiated by torch."""
    left, values, right = torch.linalg.svd(activations, full_matrices=False)
    result: torch.Tensor = (left * (values * gate(position, values.shape[-1], sharpness))[..., None, :]) @ right
    return result


def gradients(function, activations, position, weights):
    activations, position = activations.clone().requires_grad_(True), position.clone().requires_grad_(True)
    output = function(activations, position)
    return output, *torch.autograd.grad((output * weights).sum(), (activations, position))


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (2, 6, 4), (2, 3, 3, 5), (6, 1), (1, 6)])
def test_gradients_are_those_of_finite_differences(shape):
    activations = random(*shape).requires_grad_(True)
    position = scalar(1.7, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y, p: soft_truncate(y, p, 1.0), (activations, position))


@pytest.mark.parametrize("shape", [(8, 6), (6, 8), (6, 6), (3, 9, 5), (3, 5, 9)])
@pytest.mark.parametrize("sharpness", [0.5, 2.0, 10.0])
def test_gradients_are_those_through_the_svd_itself(shape, sharpness):
    y, p, weights = random(*shape), scalar(2.3), random(*shape, seed=3)
    ours = gradients(lambda y, p: soft_truncate(y, p, sharpness), y, p, weights)
    for found, expected in zip(
        ours, gradients(lambda y, p: through_the_svd(y, p, sharpness), y, p, weights), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_one_huge_value_does_not_spoil_the_gradient_of_the_others():
    """Language models have outputs with one singular value thousands of times the rest."""
    values = [1e4, *torch.linspace(2, 1, 49).tolist()]
    y, weights = with_values(values, 60, 50), random(60, 50, seed=4)
    exact = gradients(lambda y, p: through_the_svd(y, p, 10.0), y, scalar(20.4), weights)[1]
    single = gradients(soft_truncate, y.float(), scalar(20.4).float(), weights.float())[1].double()
    assert (single - exact).norm() < 0.05 * exact.norm()
    torch.testing.assert_close(gradients(soft_truncate, y, scalar(20.4), weights)[1], exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("position", [0.02, 1.03, 2.5, 4.96])
def test_the_gradient_of_the_position_is_that_of_finite_differences(position):
    y, weights, step = random(8, 6), random(8, 6, seed=1), 1e-6
    found = gradients(soft_truncate, y, scalar(position), weights)[2]
    high, low = ((soft_truncate(y, scalar(position + change)) * weights).sum() for change in (step, -step))
    torch.testing.assert_close(found, (high - low) / (2 * step), rtol=1e-5, atol=1e-7)


@settings(max_examples=60)
@given(
    values=st.lists(st.sampled_from([0.0, 1e-30, 1e-7, 1.0, 1.0 + 1e-7, 1.001, 3.0, 1e4]), min_size=1, max_size=5),
    extra=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    position=st.floats(-2, 6),
    sharpness=st.sampled_from([0.1, 10.0, 1e4]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_all_is_finite_and_bounded_whatever_the_values(values, extra, position, sharpness, dtype):
    y = with_values(values, len(values) + extra[0], len(values) + extra[1]).to(dtype)
    weights = random(*y.shape, seed=2).to(dtype)
    output, of_y, of_position = gradients(
        lambda y, p: soft_truncate(y, p, sharpness), y, torch.tensor(position, dtype=torch.float32), weights
    )
    assert output.dtype == of_y.dtype == dtype
    assert of_position.dtype == torch.float32
    assert all(torch.isfinite(tensor).all() for tensor in (output, of_y, of_position))
    assert of_y.double().norm() <= 1.01 * (1 + 1 / soft_truncation.RELATIVE_GAP) * weights.double().norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_a_zero_matrix_has_finite_gradients(shape, dtype):
    found = gradients(soft_truncate, torch.zeros(shape, dtype=dtype), torch.tensor(1.0), torch.ones(shape, dtype=dtype))
    assert all(torch.isfinite(tensor).all() for tensor in found)


def test_a_gradient_too_large_for_its_dtype_ends_at_its_limit():
    y = torch.diag(torch.tensor([1.0, 0.998])).half()
    found = gradients(soft_truncate, y, torch.tensor(0.5), torch.tensor([[0.0, 6e4], [6e4, 0.0]]).half())[1]
    assert torch.isfinite(found).all()
    assert found.abs().max() == torch.finfo(torch.float16).max


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12, 1e25])
def test_the_gradient_does_not_depend_on_the_scale(scale):
    y, weights, p = random(9, 6).float(), random(9, 6, seed=1).float(), torch.tensor(2.2)
    found, expected = (gradients(soft_truncate, z, p, weights)[1] for z in (y * scale, y))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_two_equal_values_have_the_mean_of_their_gates():
    y, p = torch.eye(2, dtype=DOUBLE), scalar(0.53)
    change = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=DOUBLE)
    found = gradients(soft_truncate, y, p, change)[1]
    torch.testing.assert_close(found, gate(p, 2).mean() * change)


def test_equal_gates_pass_the_gradient_as_it_is_however_equal_the_values():
    """Everything passes: the map is the identity, also at an identity matrix."""
    weights = random(5, 5)
    found = gradients(soft_truncate, torch.eye(5, dtype=DOUBLE), scalar(1e3), weights)[1]
    torch.testing.assert_close(found, weights)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_16_bit_inputs_are_computed_in_float32(dtype, tolerance):
    y, weights, p = random(9, 6).to(dtype), random(9, 6, seed=1).to(dtype), torch.tensor(2.2)
    narrow = gradients(soft_truncate, y, p, weights)
    for found, expected in zip(narrow, gradients(soft_truncate, y.float(), p, weights.float()), strict=True):
        torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_the_gradient_of_the_position_has_its_shape(shape):
    position = torch.full(shape, 1.5)
    assert gradients(soft_truncate, random(5, 4).float(), position, torch.ones(5, 4))[2].shape == shape


def test_a_second_derivative_is_refused():
    y = random(5, 4).requires_grad_(True)
    first = torch.autograd.grad(soft_truncate(y, scalar(1.7)).square().sum(), y, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@settings(max_examples=30)
@given(tokens=st.integers(1, 9), features=st.integers(1, 9), rank=st.integers(1, 9))
def test_a_steep_gate_is_the_truncated_svd(tokens, features, rank):
    y = random(tokens, features, seed=tokens)
    left, values, right = torch.linalg.svd(y, full_matrices=False)
    truncated = left[:, :rank] @ torch.diag(values[:rank]) @ right[:rank]
    torch.testing.assert_close(soft_truncate(y, scalar(rank - 0.5), 1e3), truncated)


def fail_in(monkeypatch, dtype, error) -> list[torch.dtype]:
    """Make the SVD fail in a dtype, and return the dtypes that it is called with."""
    svd, seen = torch.linalg.svd, []

    def failing(matrices, full_matrices=True):
        seen.append(matrices.dtype)
        if matrices.dtype == dtype:
            raise error
        return svd(matrices, full_matrices=full_matrices)

    monkeypatch.setattr(torch.linalg, "svd", failing)
    return seen


def not_converged() -> Exception:
    """Return what torch raises where an SVD finds no answer."""
    with pytest.raises(RuntimeError) as caught:
        torch.linalg.svd(torch.full((2, 2), torch.nan))
    return caught.value


def test_an_svd_that_does_not_converge_is_repeated_in_float64(monkeypatch):
    y, weights = random(6, 4).float(), torch.ones(6, 4)
    expected = gradients(soft_truncate, y, torch.tensor(1.2), weights)
    seen = fail_in(monkeypatch, torch.float32, not_converged())
    for ours, theirs in zip(gradients(soft_truncate, y, torch.tensor(1.2), weights), expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert seen == [torch.float32, torch.float64]


def test_lack_of_memory_is_not_answered_by_a_larger_try(monkeypatch):
    seen = fail_in(monkeypatch, torch.float32, torch.OutOfMemoryError("out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        soft_truncate(torch.ones(3, 3), torch.tensor(1.0))
    assert seen == [torch.float32]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_principal_subspace_is_that_of_all_vectors_stacked(dtype):
    sequences = [random(10, 6, seed=seed).to(dtype) for seed in range(4)]
    total, vectors = torch.zeros(6, 6, dtype=DOUBLE), []
    for outputs in sequences:
        add_projector(total, outputs, 2)
        vectors.append(torch.linalg.svd(outputs.double(), full_matrices=False)[2][:2].T)
    left, values, _ = torch.linalg.svd(torch.cat(vectors, dim=1))
    found = leading_subspace(total, 3)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found @ found.T, left[:, :3] @ left[:, :3].T, rtol=0, atol=tolerance)
    importance = (found.T @ total @ found).diagonal()
    torch.testing.assert_close(importance, values[:3].square(), rtol=0, atol=tolerance)


def test_a_subspace_that_all_sequences_share_is_found():
    basis = torch.linalg.qr(random(6, 2))[0]
    total = torch.zeros(6, 6, dtype=DOUBLE)
    for seed in range(3):
        add_projector(total, random(8, 2, seed=seed) @ basis.T, 2)
    found = leading_subspace(total, 2)
    weight = random(6, 5, seed=9)
    torch.testing.assert_close(found @ found.T @ weight, basis @ basis.T @ weight)


def test_directions_that_the_outputs_do_not_determine_count_nothing():
    total = torch.zeros(6, 6, dtype=DOUBLE)
    add_projector(total, torch.zeros(8, 6), 2)
    assert not total.any()
    add_projector(total, (random(8, 1) @ random(1, 6)).float(), 3)
    torch.testing.assert_close(total.trace(), scalar(1.0), rtol=1e-5, atol=0)
