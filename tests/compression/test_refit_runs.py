from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eckart.compression.refit_runs import refit_runs
from eckart.maths.moments import Moments, summed
from eckart.methods.objectives import Anchored, InputAware, Objective

EXPERTS, M, N, RANK = 3, 4, 6, 2


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs_of(run: int) -> tuple[Tensor, Tensor]:
    """Return what an expert is handed in the compressed and in the original model, (tokens, n)."""
    inputs = normal(20 + run, N, seed=run) + run
    return inputs, inputs + 0.2 * normal(20 + run, N, seed=run + 10)


def moments_of(paired: bool, empty: int | None = None) -> Moments:
    runs = []
    for run in range(EXPERTS):
        moments = Moments.zeros(N, paired=paired, device=torch.device("cpu"))
        inputs, original = inputs_of(run)
        if run != empty:
            moments.add(inputs, original if paired else None)
        runs.append(moments)
    return summed(runs)


@pytest.mark.parametrize("objective", [InputAware(), Anchored(), InputAware(affine=True)], ids=str)
def test_rows_of_each_expert_are_the_best_for_its_tokens(objective: Objective) -> None:
    paired = isinstance(objective, Anchored)
    weight, second, first = (normal(*s, seed=5) for s in ((EXPERTS * M, N), (EXPERTS * M, RANK), (RANK, N)))
    found = refit_runs(objective, weight, second, first, moments_of(paired))
    constant = None if found.constant is None else found.constant(found.second @ first)
    assert (constant is None) is not objective.adds_bias
    for run in range(EXPERTS):
        rows = slice(M * run, M * run + M)
        inputs, original = inputs_of(run)
        seen = inputs @ first.T
        if constant is not None:
            seen = torch.cat([seen, torch.ones(len(seen), 1, dtype=torch.float64)], dim=1)
        targets = (original if paired else inputs) @ weight[rows].T
        expected = torch.linalg.lstsq(seen, targets).solution.T
        torch.testing.assert_close(found.second[rows], expected[:, :RANK], rtol=1e-4, atol=1e-5)
        if constant is not None:
            torch.testing.assert_close(constant[rows], expected[:, RANK], rtol=1e-4, atol=1e-5)


def test_an_expert_without_tokens_has_what_all_have() -> None:
    weight, second, first = (normal(*s, seed=5) for s in ((EXPERTS * M, N), (EXPERTS * M, RANK), (RANK, N)))
    found = refit_runs(InputAware(affine=True), weight, second, first, moments_of(False, empty=1))
    assert torch.equal(found.second[M : 2 * M], second[M : 2 * M])
    assert not torch.equal(found.second[:M], second[:M])
    assert found.constant is not None
    assert found.constant(second @ first).isfinite().all()
