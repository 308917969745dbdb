"""One weight: its gradients by its change, and the best weight of its rank."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from eckart.layers import weight_matrix
from eckart.maths.whitening import Whitening, whiten
from eckart.methods.preparation.penalty import Penalty, StableRank, Tail
from eckart.methods.preparation.weights import PreparedWeight, WeightToPrepare

OUT, IN, RANK, TOKENS = 7, 5, 2, 60
INPUTS = torch.randn(IN, TOKENS, generator=torch.Generator().manual_seed(1)).double() * torch.arange(1, IN + 1)[:, None]
EYE = torch.eye(OUT).double()
METRIC = EYE + 0.3 * torch.randn(OUT, OUT, generator=torch.Generator().manual_seed(2)).double()


def linear_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(IN, OUT, bias=False) if kind == "linear" else Conv1D(OUT, IN)


def prepared(kind: str, *, white: bool = False, metric: Tensor | None = None) -> PreparedWeight:
    root = None if metric is None else Whitening(metric, torch.linalg.inv(metric))
    wanted = WeightToPrepare("l", "m.l", RANK, whiten(INPUTS @ INPUTS.T), TOKENS, root)
    weight = PreparedWeight(wanted, linear_of(kind), white=white)
    weight.begin()
    return weight


def penalty_of(penalty: Penalty, whitened: Tensor, energy: float) -> Tensor:
    values: Tensor = torch.linalg.svdvals(whitened)
    if isinstance(penalty, Tail):
        return values[RANK:].square().sum() / energy
    return values.square().sum() / values[0] ** 2


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("white", [False, True], ids=["weights", "white"])
@pytest.mark.parametrize("metric", [None, METRIC], ids=["plain", "metric"])
@pytest.mark.parametrize("penalty", [Tail(), StableRank(iterations=300)], ids=lambda p: p.name)
def test_gradients_are_those_of_autograd_through_singular_values(
    kind: str, white: bool, metric: Tensor | None, penalty: Penalty
) -> None:
    weight = prepared(kind, white=white, metric=metric)
    inputs = torch.randn(11, IN, generator=torch.Generator().manual_seed(3))
    weight.linear(inputs).square().mean().backward()
    weight.add_gradient(penalty, 0, 0.7)
    second_moment = INPUTS @ INPUTS.T / TOKENS
    root = torch.linalg.cholesky(second_moment)
    change = torch.zeros(OUT, IN).double().requires_grad_(True)
    start = weight.start.double()
    whole = start + (torch.linalg.solve_triangular(root, change, left=False, upper=False) if white else change)
    left = EYE if metric is None else metric
    energy = float((left.T @ start @ root).square().sum())
    assert weight.energy == pytest.approx(energy, rel=1e-5)
    loss = (inputs.double() @ whole.T).square().mean() + 0.7 * penalty_of(penalty, left.T @ whole @ root, energy)
    (expected,) = torch.autograd.grad(loss, change)
    assert weight.change.grad is not None
    torch.testing.assert_close(weight.change.grad.double(), expected, rtol=1e-3, atol=1e-5)
    assert weight.linear.weight.grad is None


@pytest.mark.parametrize("white", [False, True], ids=["weights", "white"])
def test_a_weight_is_its_start_and_its_change(white: bool) -> None:
    weight = prepared("conv1d", white=white)
    assert torch.equal(weight_matrix(weight.linear), weight.start)
    with torch.no_grad():
        weight.change.add_(0.1)
    weight.put()
    root = torch.linalg.cholesky(INPUTS @ INPUTS.T / TOKENS)
    moved = (weight_matrix(weight.linear).detach() - weight.start).double()
    torch.testing.assert_close(
        moved @ root if white else moved, torch.full((OUT, IN), 0.1).double(), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("metric", [None, METRIC], ids=["plain", "metric"])
def test_no_weight_of_the_rank_is_nearer_than_what_is_cut(metric: Tensor | None) -> None:
    weight = prepared("linear", metric=metric)
    product, left_out = weight.cut(weight.start)
    left = EYE if metric is None else metric
    root = torch.linalg.cholesky(INPUTS @ INPUTS.T)
    values = torch.linalg.svdvals(left.T @ weight.start.double() @ root).square()
    lost = (left.T @ (weight.start.double() - product) @ root).square().sum()
    assert torch.linalg.matrix_rank(product) == RANK
    assert float(lost) == pytest.approx(float(values[RANK:].sum()), rel=1e-6)
    assert left_out == pytest.approx(float(values[RANK:].sum() / values.sum()), rel=1e-6)
    assert weight.cut(torch.zeros(OUT, IN))[1] == 0
