from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from eckart.maths.moments import Moments, summed
from eckart.maths.shared_basis import gained, relative_error_of_runs


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.integers(0, 1000))
def test_each_row_gains_what_the_best_factor_loses_less(m: int, n: int, tokens: int, seed: int) -> None:
    weight, basis, inputs = normal(m, n, seed=seed), normal(n, n, seed=seed + 1), normal(n, tokens, seed=seed + 2)
    left = float((weight @ inputs).square().sum())
    found = gained(basis, weight, inputs)
    assert found.shape == (n,)
    for rank in range(1, n + 1):
        seen = basis[:rank] @ inputs
        own = torch.linalg.lstsq(seen.T, (weight @ inputs).T, driver="gelsd").solution.T
        lost = float((weight @ inputs - own @ seen).square().sum())
        assert float(found[:rank].sum()) == pytest.approx(left - lost, rel=1e-6, abs=1e-8)


def test_a_row_that_adds_no_direction_gains_nothing() -> None:
    basis = normal(3, 5, seed=0)
    basis[1] = 2 * basis[0]
    found = gained(basis, normal(4, 5, seed=1), normal(5, 5, seed=2))
    assert found[1] == 0
    assert found[0] > 0
    assert found[2] > 0


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("constant", [False, True])
def test_the_error_of_runs_is_that_of_the_outputs_of_each(paired: bool, constant: bool) -> None:
    weight, product = normal(6, 4, seed=0), normal(6, 4, seed=1)
    added = normal(6, seed=2) if constant else None
    missed = energy = 0.0
    runs = []
    for number in range(3):
        moments = Moments.zeros(4, paired=paired, device=torch.device("cpu"), original=paired)
        inputs = normal(5 + number, 4, seed=3 + number)
        original = inputs + 0.1 * normal(5 + number, 4, seed=9 + number) if paired else inputs
        moments.add(inputs, original if paired else None)
        runs.append(moments)
        rows = slice(2 * number, 2 * number + 2)
        outputs = inputs @ product[rows].T + (0 if added is None else added[rows])
        missed += float((original @ weight[rows].T - outputs).square().sum())
        energy += float((original @ weight[rows].T).square().sum())
    found = relative_error_of_runs(weight, product, summed(runs), added)
    assert found == pytest.approx((missed / energy) ** 0.5, rel=1e-5)
