"""The projection on the principal outputs of all sequences, against those of the outputs themselves."""

from __future__ import annotations

import pytest
import torch
from tests.methods.objectives.helpers import CPU, M, N, data, moments_of
from torch import Tensor

from eckart.maths.lowrank import truncate
from eckart.maths.soft_truncation import add_projector
from eckart.methods.objectives import PrincipalOutputs

SEQUENCES, LENGTH = 8, 10


def projected(weight: Tensor, sequences: list[Tensor], rank: int) -> Tensor:
    """Return W' for inputs (n, length) of each sequence."""
    projectors = torch.zeros(M, M, dtype=torch.float64)
    for inputs in sequences:
        add_projector(projectors, (weight @ inputs).T, rank)
    objective, moments = PrincipalOutputs(), moments_of(torch.cat(sequences, dim=1), None)
    whitening = objective.whitening(moments, N, CPU)
    solution = objective.solution(weight, moments, whitening, rank, projectors=projectors)
    second, first = truncate(solution, rank)
    assert (second.shape, first.shape) == ((M, rank), (rank, N))
    return second @ first


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_outputs_are_projected_on_what_sequences_have_in_common(rank: int) -> None:
    weight, x, _ = data()
    sequences = list(x.split(LENGTH, dim=1))
    leading = [torch.linalg.svd(weight @ inputs, full_matrices=False)[0][:, :rank] for inputs in sequences]
    basis = torch.linalg.svd(torch.cat(leading, dim=1), full_matrices=False)[0][:, :rank]
    torch.testing.assert_close(projected(weight, sequences, rank), basis @ basis.T @ weight, rtol=1e-6, atol=1e-6)


def test_each_sequence_counts_the_same_however_large_it_is() -> None:
    weight, x, _ = data()
    sequences = list(x.split(LENGTH, dim=1))
    larger = [sequences[0] * 1000, *sequences[1:]]
    torch.testing.assert_close(projected(weight, larger, 3), projected(weight, sequences, 3), rtol=1e-6, atol=1e-6)


def test_outputs_that_never_leave_a_subspace_lose_nothing() -> None:
    weight, x, _ = data()
    inputs = torch.linalg.qr(torch.randn(N, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    sequences = [inputs @ part[:3] for part in x.split(LENGTH, dim=1)]
    found = projected(weight, sequences, 3)
    for sequence in sequences:
        torch.testing.assert_close(found @ sequence, weight @ sequence, rtol=1e-6, atol=1e-6)
