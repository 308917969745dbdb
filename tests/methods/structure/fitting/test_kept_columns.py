"""Columns that stay whole: as published by a literal program, and fitted again by brute force on raw tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from eckart.layers import KeptColumnsLinear
from eckart.maths.whitening import Whitening
from eckart.methods.layout import Layout
from eckart.methods.precision import Bits4, Bits8, Bits16, Precision
from eckart.methods.structure import KeptColumns, TwoFactor
from eckart.methods.structure.fitting import Fit

M, N, RANK = 24, 32, 9
HUGE = tuple(range(0, 24, 2))  # more inputs than ranks, each of its own


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def setting(huge: tuple[int, ...] = (), tokens: int = 200) -> tuple[Tensor, Tensor, Fit]:
    """Return a weight, inputs that go together, some of them of huge energy, and what is to be fitted."""
    inputs = normal(N, 12, seed=1) @ normal(12, tokens, seed=2) + 0.5 * normal(N, tokens, seed=3)
    weight = normal(M, N, seed=4)
    inputs[list(huge)] = 30 * normal(len(huge), tokens, seed=5)
    return weight, inputs, Fit(weight, inputs @ inputs.T)


def fitted(structure: KeptColumns, fit: Fit, rank: int = RANK, precision: Precision | None = None) -> KeptColumnsLinear:
    linear = nn.Linear(N, M).double()
    return structure.fitter.fitted(linear, rank, torch.float64, precision or Bits16(), fit)


def literal(weight: Tensor, inputs: Tensor, columns: Tensor, rank: int) -> Tensor:
    """CPSVD at some columns: they stay, the others are truncated with a Cholesky root of their own moment."""
    others = torch.tensor([i for i in range(N) if i not in columns.tolist()])
    root = torch.linalg.cholesky(inputs[others] @ inputs[others].T)
    u, s, vt = torch.linalg.svd(weight[:, others] @ root, full_matrices=False)
    low = torch.linalg.solve_triangular(root, (u[:, :rank] * s[:rank]) @ vt[:rank], upper=False, left=False)
    product = weight.clone()
    product[:, others] = low
    return product


def brute_force(target: Tensor, inputs: Tensor, columns: Tensor, rank: int) -> float:
    """The least loss with those columns free: what inputs of theirs explain is taken off all tokens by a regression."""
    others = torch.tensor([i for i in range(N) if i not in columns.tolist()])
    outputs = target @ inputs
    left = torch.eye(inputs.shape[1], dtype=torch.float64)
    left -= torch.linalg.pinv(inputs[columns]) @ inputs[columns]
    basis, triangle = torch.linalg.qr((inputs[others] @ left).T)
    values = torch.linalg.svdvals(outputs @ left @ basis)
    assert float(triangle.diagonal().abs().min()) > 0
    unexplained = (outputs @ left - outputs @ left @ basis @ basis.T).square().sum()
    return float(values[rank:].square().sum() + unexplained)


def test_as_published_by_a_literal_program() -> None:
    weight, inputs, fit = setting(HUGE)
    layer = fitted(KeptColumns(refit=False), fit)
    assert len(set(layer.columns.tolist()) & set(HUGE)) > 9
    torch.testing.assert_close(
        layer.dense_weight(), literal(weight, inputs, layer.columns, layer.rank), rtol=1e-6, atol=1e-6
    )
    # The columns themselves are those of the weight.
    torch.testing.assert_close(layer.dense_weight()[:, layer.columns.long()], weight[:, layer.columns.long()])


def test_three_inputs_of_huge_energy_are_kept() -> None:
    weight, _, _ = setting()
    inputs = normal(N, 500, seed=7)
    inputs[[5, 6, 30]] *= 300
    layer = fitted(KeptColumns(refit=False, columns=3), Fit(weight, inputs @ inputs.T), rank=2)
    assert layer.columns.tolist() == [5, 6, 30]
    assert (layer.rank, layer.kept) == (2, 3)


@pytest.mark.parametrize("with_metric", [False, True])
def test_fitted_again_it_is_the_best_of_its_form(with_metric: bool) -> None:
    weight, inputs, fit = setting(HUGE)
    side = torch.eye(M, dtype=torch.float64)
    if with_metric:
        side = normal(M, M, seed=8)
        fit = Fit(weight, inputs @ inputs.T, Whitening(side, torch.linalg.inv(side)))
    layer = fitted(KeptColumns(), fit)
    assert layer.kept > 0
    least = brute_force(side.T @ weight, inputs, layer.columns.long(), layer.rank)
    assert fit.loss(layer.dense_weight()) == pytest.approx(least, rel=1e-6)


@pytest.mark.parametrize("rank", [2, 6])
@pytest.mark.parametrize("count", [1, 4, 10])
def test_fitting_again_is_never_worse_at_equal_columns_and_rank(rank: int, count: int) -> None:
    weight, inputs, fit = setting(huge=(3,))
    published = fitted(KeptColumns(refit=False, columns=count), fit, rank)
    ours = fitted(KeptColumns(columns=count), fit, rank)
    assert torch.equal(ours.columns, published.columns)
    assert ours.rank == published.rank == rank
    assert fit.loss(ours.dense_weight()) <= fit.loss(published.dense_weight()) * (1 + 1e-9)
    assert fit.loss(ours.dense_weight()) == pytest.approx(
        brute_force(weight, inputs, ours.columns.long(), rank), rel=1e-6
    )


@pytest.mark.parametrize("refit", [True, False])
@pytest.mark.parametrize("precision", [Bits16(), Bits8(), Bits4(group=8)], ids=str)
def test_bytes_are_at_most_those_of_the_rank_and_hardly_less(refit: bool, precision: Precision) -> None:
    _, _, fit = setting(HUGE)
    layer = fitted(KeptColumns(refit=refit), fit, precision=precision)
    assert layer.kept > 0
    layout = Layout(KeptColumns(refit=refit), precision)
    budget, found = (
        layout.bytes(M, N, RANK),
        layout.with_columns(layer.kept).bytes(M, N, layer.rank),
    )
    more = layout.with_columns(layer.kept + 1).bytes(M, N, layer.rank)
    assert found <= budget < more
    assert layer.rank < RANK


def test_columns_are_taken_only_where_that_loses_less() -> None:
    for huge in ((), HUGE):
        _, _, fit = setting(huge)
        plain = TwoFactor().fitter.fitted(nn.Linear(N, M).double(), RANK, torch.float64, Bits16(), fit)
        for refit in (True, False):
            layer = fitted(KeptColumns(refit=refit), fit)
            lost = fit.loss(layer.dense_weight()) / fit.loss(plain.dense_weight())
            assert lost < 0.99 if layer.kept else lost == pytest.approx(1, rel=1e-6)


def test_fewer_tokens_than_inputs_and_features_that_are_zero() -> None:
    weight, inputs, _ = setting(tokens=10)
    inputs[[2, 9]] = 0
    fit = Fit(weight, inputs @ inputs.T)
    for refit in (True, False):
        layer = fitted(KeptColumns(refit=refit, columns=12), fit, rank=3)
        assert torch.isfinite(layer.dense_weight()).all()
    # Ten columns make up for all that ten tokens ask for.
    assert fit.loss(fitted(KeptColumns(columns=12), fit, rank=1).dense_weight()) < 1e-9 * fit.loss(0 * weight)


@pytest.mark.parametrize("precision", [Bits8(), Bits4(group=4)], ids=str)
def test_what_rounding_lost_is_made_up_for(precision: Bits8 | Bits4) -> None:
    _, _, fit = setting(HUGE)
    for refit in (True, False):
        structure, lost = KeptColumns(refit=refit, columns=6), []
        for feedback in (True, False):
            chosen = precision.model_copy(update={"feedback": feedback})
            lost.append(fit.loss(fitted(structure, fit, 8, chosen).dense_weight()))
        assert lost[0] < lost[1] or refit  # columns that move make up for it in any case
