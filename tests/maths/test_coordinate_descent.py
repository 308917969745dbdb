"""Codes and scales made better in turn, against least squares and against one number after another."""

from __future__ import annotations

import pytest
import torch
from tests.maths.test_quantization import DOUBLE, matrix, moment

from eckart.maths.coordinate_descent import descend, refit_scales, sweep
from eckart.maths.feedback import damped, round_with_feedback, spread_of
from eckart.maths.quantization import QuantScheme, find_scales, from_codes


@pytest.mark.parametrize("scheme", [QuantScheme(4, 8), QuantScheme(3, 7), QuantScheme(2)])
def test_scales_are_refitted_by_least_squares(scheme: QuantScheme) -> None:
    weight, second = matrix(5, 30), damped(moment(30, 200))
    scales = find_scales(weight, scheme)
    codes = round_with_feedback(weight, scales, scheme, spread_of(second))
    found = refit_scales(weight, codes, scales, scheme, second)
    root, groups, size = torch.linalg.cholesky(second), scheme.groups(30), scheme.group_size(30)
    for row in range(5):
        columns = torch.zeros(30, groups, dtype=DOUBLE)
        for column in range(30):
            columns[column, column // size] = codes[row, column]
        expected = torch.linalg.lstsq(root.T @ columns, root.T @ weight[row]).solution
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-6)


def test_refitted_scales_never_lose_more_as_they_are_stored() -> None:
    weight, second, scheme = matrix(40, 64), damped(moment(64, 300)), QuantScheme(3, 16)
    scales = find_scales(weight, scheme, stored=torch.float16)
    codes = round_with_feedback(weight, scales, scheme, spread_of(second))
    found = refit_scales(weight, codes, scales, scheme, second)
    assert found.dtype is torch.float16
    before, after = (weight - from_codes(codes, s.double(), scheme) for s in (scales, found))
    rows = [((error @ second) * error).sum(dim=1) for error in (before, after)]
    assert (rows[1] <= rows[0]).all()
    assert rows[1].sum() < 0.97 * rows[0].sum()
    zeros = torch.zeros(2, 64, dtype=DOUBLE)
    kept = refit_scales(zeros, zeros.to(torch.int8), torch.ones(2, 4), scheme, second)
    assert torch.equal(kept, torch.ones(2, 4))


@pytest.mark.parametrize("columns", [9, 150])
def test_a_sweep_equals_one_number_after_another(columns: int) -> None:
    weight, second, scheme = matrix(4, columns), damped(moment(columns, 3 * columns)), QuantScheme(3, 8)
    scales = find_scales(weight, scheme)
    codes = round_with_feedback(weight, scales, scheme, spread_of(second))
    found = sweep(weight, codes, scales, scheme, second)
    scale, expected = scheme.per_column(scales, columns), codes.double()
    for column in range(columns):
        losses = []
        for code in range(-4, 4):
            expected[:, column] = code
            error = weight - expected * scale
            losses.append(((error @ second) * error).sum(dim=1))
        expected[:, column] = torch.stack(losses).argmin(dim=0).double() - 4
    assert torch.equal(found.double(), expected)
    assert not torch.equal(found, codes)


def test_it_never_loses_more_and_ends_where_nothing_changes() -> None:
    weight, second, scheme = matrix(20, 64), damped(moment(64, 400)), QuantScheme(2, 16)
    scales = find_scales(weight, scheme, stored=torch.bfloat16)
    codes = round_with_feedback(weight, scales, scheme, spread_of(second))
    losses = []
    for _ in range(6):
        error = weight - from_codes(codes, scales.double(), scheme)
        losses.append(float(((error @ second) * error).sum()))
        codes, scales = descend(weight, codes, scales, scheme, second, 1)
    assert losses == sorted(losses, reverse=True)
    assert losses[1] < 0.9 * losses[0]
    zero = torch.zeros(3, 64, dtype=DOUBLE)
    nothing = descend(zero, zero.to(torch.int8), torch.ones(3, 4, dtype=DOUBLE), scheme, second, 2)
    assert not nothing[0].any()
