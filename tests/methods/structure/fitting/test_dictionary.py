"""Dictionaries as published, by literal programs in white space, and what fitting them again gives."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eckart.layers import DictionaryLinear, SparseLinear
from eckart.maths.whitening import Whitening, whiten
from eckart.methods.precision import Bits16
from eckart.methods.structure import Dictionary, TwoFactor
from eckart.methods.structure.fitting import Fit

M, N, ATOMS = 18, 14, 10
METHODS = ["rocket", "compot"]
PATTERNS = ["any", "2-of-4"]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def setting(tokens: int = 90) -> tuple[Tensor, Tensor, Fit]:
    inputs = normal(N, 6, seed=1) @ normal(6, tokens, seed=2) + 0.4 * normal(N, tokens, seed=3)
    weight = normal(M, N, seed=4)
    return weight, inputs, Fit(weight, whiten(inputs @ inputs.T))


def lost(fit: Fit, atoms: int = ATOMS, **fields: Any) -> float:
    return fit.loss(fitted(fit, atoms, **fields).dense_weight())


def fitted(fit: Fit, atoms: int = ATOMS, **fields: Any) -> DictionaryLinear:
    m, n = fit.target.shape
    linear, structure = nn.Linear(n, m).double(), Dictionary.model_validate(fields)
    return structure.fitter.fitted(linear, atoms, torch.float64, Bits16(), fit)


def literal_rocket(weight: Tensor, inputs: Tensor, atoms: int, per_row: int, spare: float) -> Tensor:
    """The published rule, entry by entry."""
    root = torch.linalg.cholesky(inputs @ inputs.T)
    white = weight @ root
    dictionary = torch.linalg.svd(white, full_matrices=False)[2][:atoms]
    coefficients = white @ dictionary.T
    plain = dictionary @ torch.linalg.inv(root)
    scores = coefficients.abs() * plain.norm(dim=1) ** 0.5
    own, sparse = per_row - round(spare * per_row), torch.zeros_like(coefficients)
    others = []
    for i in range(len(weight)):
        order = sorted(range(atoms), key=lambda j: -float(scores[i, j]))
        for j in order[:own]:
            sparse[i, j] = coefficients[i, j]
        others += [(float(scores[i, j]), i, j) for j in order[own:]]
    for _, i, j in sorted(others, reverse=True)[: len(weight) * (per_row - own)]:
        sparse[i, j] = coefficients[i, j]
    gram = sparse.T @ sparse
    ridge = max(1e-6, 1e-3 * float(gram.trace()) / atoms)
    found = torch.linalg.inv(gram + ridge * torch.eye(atoms)) @ sparse.T @ white
    product: Tensor = sparse @ found @ torch.linalg.inv(root)
    return product


def literal_compot(weight: Tensor, inputs: Tensor, atoms: int, per_row: int, rounds: int) -> Tensor:
    """The published rule, row by row."""
    root = torch.linalg.cholesky(inputs @ inputs.T)
    white = weight @ root
    dictionary = torch.linalg.svd(white, full_matrices=False)[2][:atoms]

    def largest() -> Tensor:
        coefficients = white @ dictionary.T
        for row in coefficients:
            smallest = sorted(range(atoms), key=lambda j: abs(float(row[j])))[: atoms - per_row]
            row[smallest] = 0
        found: Tensor = coefficients
        return found

    sparse = largest()
    for _ in range(rounds):
        left, _, right = torch.linalg.svd(sparse.T @ white, full_matrices=False)
        dictionary = left @ right
        sparse = largest()
    product: Tensor = sparse @ dictionary @ torch.linalg.inv(root)
    return product


@pytest.mark.parametrize("spare", [0.005, 0.2, 0.6])
@pytest.mark.parametrize("sparsity", [2.0, 3.0])
def test_rocket_as_published(spare: float, sparsity: float) -> None:
    weight, inputs, fit = setting()
    layer = fitted(fit, method="rocket", refits=0, spare=spare, sparsity=sparsity)
    expected = literal_rocket(weight, inputs, ATOMS, int(ATOMS / sparsity), spare)
    torch.testing.assert_close(layer.dense_weight(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("rounds", [0, 1, 20])
def test_compot_as_published(rounds: int) -> None:
    weight, inputs, fit = setting()
    layer = fitted(fit, refits=0, rounds=rounds)
    torch.testing.assert_close(
        layer.dense_weight(), literal_compot(weight, inputs, ATOMS, ATOMS // 2, rounds), rtol=1e-6, atol=1e-8
    )


def test_with_all_coefficients_it_is_the_truncated_svd() -> None:
    _, _, fit = setting()
    best = TwoFactor().fitter.fitted(nn.Linear(N, M).double(), 5, torch.float64, Bits16(), fit)
    for method, refits in (("compot", 0), ("rocket", 1)):
        assert lost(fit, 5, method=method, refits=refits, sparsity=1) == pytest.approx(
            fit.loss(best.dense_weight()), rel=1e-6
        )


def test_a_local_minimum_by_hand() -> None:
    """From the singular vectors of [[3, 1], [1, 3]] one number a row loses 4, and no round leaves that; 2 is best."""
    fit = Fit(torch.tensor([[3.0, 1.0], [1.0, 3.0]]).double(), Whitening.identity(2))
    for rounds in (0, 20):
        assert lost(fit, 2, refits=0, rounds=rounds) == pytest.approx(4)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_rounds_only_lower_the_loss(pattern: str) -> None:
    _, _, fit = setting()
    losses = [lost(fit, refits=0, pattern=pattern, rounds=rounds) for rounds in range(21)]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in pairwise(losses))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("with_metric", [False, True])
def test_fitting_again_only_lowers_the_loss(method: str, pattern: str, with_metric: bool) -> None:
    weight, _, fit = setting()
    if with_metric:
        side = normal(M, M, seed=8)
        fit = Fit(weight, fit.inputs, Whitening(side, torch.linalg.inv(side)))
    losses = [lost(fit, method=method, pattern=pattern, refits=refits) for refits in range(4)]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in pairwise(losses))
    assert losses[-1] < 0.999 * losses[0]


@pytest.mark.parametrize("method", METHODS)
def test_two_of_four_are_in_their_places(method: str) -> None:
    _, _, fit = setting()
    layer = fitted(fit, method=method, pattern="2-of-4", refits=2)
    assert isinstance(layer.second, SparseLinear)
    assert int((layer.second.weight != 0).sum()) == M * 6  # of 10 in three groups, the last of two
    assert lost(fit, method=method, pattern="2-of-4") >= lost(fit, method=method) * 0.9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_few_tokens_zero_features_and_zero_weights(method: str, pattern: str) -> None:
    weight, inputs, _ = setting(tokens=5)
    inputs[[2, 9]] = 0
    fit = Fit(weight, inputs @ inputs.T)
    layer = fitted(fit, method=method, pattern=pattern)
    assert torch.isfinite(layer.dense_weight()).all()
    assert fit.loss(layer.dense_weight()) < 0.5 * fit.loss(0 * weight)
    nothing = fitted(Fit(0 * weight, fit.inputs), method=method, pattern=pattern)
    assert not nothing.dense_weight().any()
    unseen = fitted(Fit(weight, torch.zeros(N, N).double()), method=method, pattern=pattern)
    assert torch.isfinite(unseen.dense_weight()).all()


@pytest.mark.parametrize("method", METHODS)
def test_numbers_are_within_the_range_of_16_bit_floats(method: str) -> None:
    weight, inputs, _ = setting()
    fit = Fit(weight, 1e12 * inputs @ inputs.T)
    linear = nn.Linear(N, M, dtype=torch.float16)
    layer = Dictionary.model_validate({"method": method}).fitter.fitted(linear, ATOMS, torch.float16, Bits16(), fit)
    assert max(float(parameter.detach().abs().max()) for parameter in layer.parameters()) < 100
    assert fit.loss(layer.dense_weight()) < 1.01 * lost(fit, method=method)
