"""What every structure's layers are made of: the weight that was asked for, rounded as it is stored."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from eckart.layers import LowRankLinear, bias_vector, weight_matrix
from eckart.maths.whitening import Whitening
from eckart.methods.precision import Bits4, Bits8, Bits16
from eckart.methods.structure import STRUCTURES, Dictionary, Hybrid, Structure, TwoFactor
from eckart.methods.structure.fitting import Fit
from eckart.methods.structure.fitting.base import set_bias

M, N, RANK = 10, 8, 3
ALL: list[Structure] = [kind.model_validate({}) for kind in STRUCTURES.values()]
PRECISIONS: list[Bits16 | Bits8 | Bits4] = [Bits16(), Bits8(), Bits4(group=4)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def regression(target: Tensor, inputs: Tensor, rank: int) -> Tensor:
    """Return the best weight of a rank by a QR of raw inputs."""
    basis, triangle = torch.linalg.qr(inputs.T)
    u, s, vt = torch.linalg.svd(target @ inputs @ basis, full_matrices=False)
    kept = (u[:, :rank] * s[:rank]) @ vt[:rank]
    result: Tensor = torch.linalg.solve_triangular(triangle, kept.T, upper=True).T
    return result


@pytest.mark.parametrize("structure", ALL, ids=lambda structure: structure.name)
@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda precision: precision.name)
def test_the_layer_holds_the_weight_and_the_bias_as_well_as_its_numbers_can(
    structure: Structure, precision: Bits16 | Bits8 | Bits4
) -> None:
    if structure.own_precision and precision != Bits16():
        return
    linear, second, first = nn.Linear(N, M), normal(M, RANK), normal(RANK, N, seed=1)
    inputs = normal(N, 40, seed=2)
    fit = Fit(second @ first, inputs @ inputs.T)
    layer = structure.fitter.factored(linear, second, first, torch.float32, precision, fit)
    assert type(layer) is structure.layer
    assert layer.rank == RANK
    lost = float(((layer.dense_weight() - second @ first) @ inputs).norm() / (second @ first @ inputs).norm())
    bits = 8 if structure.own_precision else {"16-bit": 16, "8-bit": 8, "4-bit": 4}[precision.name]
    assert lost < {16: 1e-4, 8: 0.02, 4: 0.2}[bits] or isinstance(structure, Hybrid | Dictionary)
    bias = layer.dense_bias()
    assert bias is not None
    torch.testing.assert_close(bias.detach(), linear.bias.detach(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("structure", ALL, ids=lambda structure: structure.name)
@pytest.mark.parametrize("with_metric", [False, True])
def test_what_is_fitted_is_the_best_of_its_rank(structure: Structure, with_metric: bool) -> None:
    """A hybrid has a base beside, and loses less than any weight of that rank."""
    if structure.own_precision:
        return
    target, inputs, root = normal(M, N), normal(N, 50, seed=1), normal(M, M, seed=2)
    metric = Whitening(root, torch.linalg.inv(root)) if with_metric else None
    fit = Fit(target, inputs @ inputs.T, metric)
    layer = structure.fitter.fitted(nn.Linear(N, M).double(), RANK, torch.float64, Bits16(), fit)
    side = root.T if with_metric else torch.eye(M, dtype=torch.float64)
    best = torch.linalg.solve(side, regression(side @ target, inputs, RANK))
    least = float((side @ (target - best) @ inputs).square().sum())
    found = float((side @ (target - layer.dense_weight()) @ inputs).square().sum())
    assert found == pytest.approx(fit.loss(layer.dense_weight()), rel=1e-6)
    if structure.adds_to_base:
        assert found < 0.1 * least
    elif structure.fits_itself:  # where it has a form that loses less
        assert found <= least * (1 + 1e-6)
    else:
        assert found == pytest.approx(least, rel=1e-6)


@pytest.mark.parametrize("precision", [Bits8(group=4), Bits4(group=4)], ids=lambda precision: precision.name)
def test_the_second_factor_makes_up_for_what_rounding_the_first_one_lost(precision: Bits8 | Bits4) -> None:
    second, first = normal(M, RANK), normal(RANK, N, seed=1)
    inputs = normal(N, 4, seed=2) @ normal(4, 50, seed=3) + 0.1 * normal(N, 50, seed=4)
    fit = Fit(second @ first, inputs @ inputs.T)
    lost = []
    for feedback in (True, False):
        chosen = precision.model_copy(update={"feedback": feedback})
        layer = TwoFactor().fitter.factored(nn.Linear(N, M), second, first, torch.float32, chosen, fit)
        lost.append(fit.loss(layer.dense_weight()))
    assert lost[0] < 0.8 * lost[1]


@pytest.mark.parametrize("kind", ["bias", "no bias", "conv1d"])
@pytest.mark.parametrize("constant", [False, True])
def test_a_bias_is_that_of_the_linear_and_of_the_fit(kind: str, constant: bool) -> None:
    linear = Conv1D(M, N) if kind == "conv1d" else nn.Linear(N, M, bias=kind == "bias")
    if bias_vector(linear) is not None:
        linear.bias.data = normal(M, seed=5).float()
    before = torch.zeros(M) if bias_vector(linear) is None else linear.bias.detach().clone()
    second, first, mean = normal(M, RANK), normal(RANK, N, seed=1), normal(N, seed=6)
    fit = Fit(second @ first, torch.eye(N).double(), constant=(lambda product: product @ mean) if constant else None)
    layer = TwoFactor().fitter.factored(linear, second, first, torch.float32, fit=fit)
    bias = layer.dense_bias()
    if kind == "no bias" and not constant:
        assert bias is None
        return
    assert bias is not None
    # Of the weight as it is stored.
    added = layer.dense_weight() @ mean if constant else torch.zeros(M).double()
    torch.testing.assert_close(bias.detach().double(), before.double() + added, rtol=1e-5, atol=1e-5)


def test_biases_are_rounded_to_what_is_stored() -> None:
    linear = nn.Linear(N, M)
    layer = LowRankLinear.empty_like(linear, RANK)
    set_bias(layer, linear, torch.bfloat16)
    bias = layer.dense_bias()
    assert bias is not None
    assert torch.equal(bias.detach(), linear.bias.detach().bfloat16().float())
    assert weight_matrix(linear).dtype == torch.float32


def test_all_of_a_weight_is_left_to_the_rank_unless_there_is_a_base() -> None:
    weight, whitening = normal(M, N), Whitening.identity(N)
    for structure in ALL:
        rest = structure.fitter.remainder(weight, whitening)
        assert (rest is weight) == (not structure.adds_to_base)
