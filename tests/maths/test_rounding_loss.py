"""Losses told beforehand, against those of what is then rounded."""

from __future__ import annotations

import pytest
import torch
from tests.maths.test_quantization import DOUBLE, matrix, moment

from eckart.maths.feedback import damped, quantize
from eckart.maths.lowrank import solve, truncate, unseen_moment
from eckart.maths.quantization import QuantScheme, from_codes
from eckart.maths.rounding_loss import pivots, predicted_losses
from eckart.maths.whitening import whiten

ROWS, COLUMNS = 64, 96


def test_pivots_are_what_the_inputs_behind_do_not_tell() -> None:
    second = moment(12, 40)
    regular = damped(second)
    for column, found in enumerate(pivots(second)):
        rest = regular[column + 1 :, column + 1 :]
        cross = regular[column, column + 1 :]
        expected = regular[column, column] - cross @ torch.linalg.solve(rest, cross)
        torch.testing.assert_close(found, expected)
    assert not pivots(torch.zeros(4, 4, dtype=DOUBLE)).any()


@pytest.mark.parametrize("scheme", [QuantScheme(4, 32), QuantScheme(3, 32), QuantScheme(3, 64), QuantScheme(2, 32)])
def test_they_are_near_the_losses_of_real_codes(scheme: QuantScheme) -> None:
    weight, second = matrix(ROWS, COLUMNS), moment(COLUMNS, 600)
    weights = torch.linspace(0.1, 2, ROWS, dtype=DOUBLE)
    whitening = whiten(second)
    metric = whiten(torch.diag(weights))
    solution = solve(whitening, None, weight, metric)
    (found,) = predicted_losses(solution, second, weights, [scheme], [0, 8, 24])
    for rank, predicted in zip((0, 8, 24), found, strict=True):
        left, unseen = weight, second
        if rank:
            factors, first = truncate(solution, rank)
            left, unseen = weight - factors @ first, unseen_moment(first, second)
        codes, scales = quantize(left, scheme, unseen, sweeps=2)
        error = left - from_codes(codes, scales, scheme)
        real = float((weights[:, None] * (error @ unseen) * error).sum()) / 2
        assert predicted == pytest.approx(real, rel=0.3)
    assert found == sorted(found, reverse=True)


def test_fewer_bits_lose_more_and_nothing_loses_nothing() -> None:
    weight, second = matrix(ROWS, COLUMNS), moment(COLUMNS, 600)
    schemes = [QuantScheme(8), QuantScheme(4, 32), QuantScheme(3, 32), QuantScheme(2, 32)]
    ones = torch.ones(ROWS, dtype=DOUBLE)
    losses = predicted_losses(solve(whiten(second), None, weight), second, ones, schemes, [0])
    assert losses == sorted(losses)
    for nothing in (torch.zeros_like(weight), weight):
        inputs = second if nothing is not weight else torch.zeros_like(second)
        solution = solve(whiten(inputs), None, nothing)
        assert predicted_losses(solution, inputs, ones, schemes, [0, 4]) == [[0.0, 0.0]] * 4


def test_a_moment_that_its_own_rounding_made_indefinite_has_pivots() -> None:
    """As what factors leave of a moment is where they see nearly all of it."""
    basis = torch.linalg.qr(matrix(12, 12)).Q
    sizes = torch.tensor([6e-7, *[1e-12] * 10, -4e-8], dtype=DOUBLE)
    found = pivots(basis * sizes @ basis.T)
    assert torch.isfinite(found).all()
    assert (found > 0).all()
    assert found.sum() < 2e-6
