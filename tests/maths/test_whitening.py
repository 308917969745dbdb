from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eckart.maths.whitening import FLOAT64_FLOOR, Whitening, triangular_root, whiten


def test_root_and_inverse_of_a_singular_moment() -> None:
    sizes = 10.0 ** torch.linspace(-2, 2, 9, dtype=torch.float64)
    inputs = sizes[:, None] * torch.randn(9, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    second_moment = inputs @ inputs.T
    whitening = whiten(second_moment)
    assert whitening.root.shape == (9, 4)
    scale = second_moment.diagonal().sqrt()
    error = (whitening.root @ whitening.root.T - second_moment) / (scale[:, None] * scale)
    assert error.abs().max() < 1e-10
    torch.testing.assert_close(whitening.inverse @ whitening.root, torch.eye(4, dtype=torch.float64))


@settings(max_examples=60)
@given(st.integers(1, 9), st.floats(-12, 0), st.integers(0, 1000))
def test_a_triangular_root_is_only_found_where_every_eigenvalue_counts(n: int, power: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
    values = torch.logspace(power, 0, n, dtype=torch.float64)
    features = 10.0 ** torch.linspace(-2, 2, n, dtype=torch.float64)
    matrix = features[:, None] * (vectors * values) @ vectors.T * features
    scale = matrix.diagonal().sqrt()
    spectrum = torch.linalg.eigvalsh(matrix / torch.outer(scale, scale))
    found = triangular_root(matrix, FLOAT64_FLOOR)
    if found is None:
        assert spectrum[0] < 2 * n**2 * FLOAT64_FLOOR * spectrum[-1]
    else:
        assert spectrum[0] > FLOAT64_FLOOR * spectrum[-1]
        torch.testing.assert_close(found.root, found.root.tril())
        error = (found.root @ found.root.T - matrix) / torch.outer(scale, scale)
        assert error.abs().max() < 1e-12
        torch.testing.assert_close(found.inverse @ found.root, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-8)


def test_no_triangular_root_of_what_is_not_positive_definite() -> None:
    assert triangular_root(torch.zeros(3, 3, dtype=torch.float64)) is None
    assert triangular_root(torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))) is None


def test_a_root_is_found_when_it_is_asked_for() -> None:
    inputs = torch.randn(4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moment = inputs @ inputs.T
    whitening = whiten(moment)
    assert whitening.is_of(moment)
    assert not whitening.is_of(moment.clone())
    assert whitening.second_moment is moment
    before = whitening.is_factored
    torch.testing.assert_close(whitening.root @ whitening.root.T, moment)
    assert (before, whitening.is_factored) == (False, True)
    given = Whitening(whitening.root, whitening.inverse)
    assert given.is_factored
    assert not given.is_of(moment)
    torch.testing.assert_close(given.second_moment, moment)


def test_what_subtraction_left_is_not_taken_for_a_moment() -> None:
    mean = torch.full((3,), 1e6, dtype=torch.float64)
    centred = torch.full((3, 3), -1e-5, dtype=torch.float64)
    found = whiten(centred, mean)
    assert found.is_factored
    assert (torch.linalg.eigvalsh(found.second_moment) >= 0).all()
