"""Factors of 8 bits beside a rest of 16, which makes up for what the codes lost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from eckart.layers import dense_weight_of
from eckart.methods.precision import Bits16
from eckart.methods.structure import Remapped
from eckart.methods.structure.fitting import Fit

SHAPES = [(12, 8), (8, 12), (8, 8)]
RANK = 3


def setting(shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return factors, and inputs whose features go together."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    m, n = shape
    inputs = normal(n, 4) @ normal(4, 60) + 0.1 * normal(n, 60)
    return normal(m, RANK), normal(RANK, n), inputs


@pytest.mark.parametrize("shape", SHAPES)
def test_with_feedback_less_of_the_outputs_is_lost(shape: tuple[int, int]) -> None:
    second, first, inputs = setting(shape)
    fit = Fit(second @ first, inputs @ inputs.T)
    linear = nn.Linear(shape[1], shape[0]).double()
    lost = []
    for feedback in (True, False):
        fitter = Remapped(feedback=feedback).fitter
        layer = fitter.factored(linear, second, first, torch.float64, Bits16(), fit)
        lost.append(fit.loss(layer.dense_weight()))
        assert fitter.feeds_back(Bits16()) == feedback
        assert (layer.dense_weight() - second @ first).norm() < 0.1 * (second @ first).norm()
    assert lost[0] < 0.7 * lost[1]


@pytest.mark.parametrize("shape", SHAPES)
def test_without_feedback_each_number_is_rounded_to_the_nearest(shape: tuple[int, int]) -> None:
    second, first, _ = setting(shape)
    layer = Remapped(feedback=False).fitter.factored(nn.Linear(shape[1], shape[0]).double(), second, first)
    common = min(shape)
    for child, wanted in (
        (layer.second, second[:common]),
        (layer.first, first[:, :common] if shape[1] > common else first),
    ):
        step = dense_weight_of(child).abs().amax(dim=1, keepdim=True) / 127
        assert ((dense_weight_of(child) - wanted).abs() <= 0.51 * step + 1e-9).all()
    if layer.rest is not None:
        rest = second[common:] if shape[0] > common else first[:, common:]
        torch.testing.assert_close(dense_weight_of(layer.rest), rest)


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_the_second_factor_is_the_best_for_the_first_as_it_is_stored(shape: tuple[int, int]) -> None:
    """Where its own numbers are of 16 bits, or wide: by least squares on raw inputs."""
    second, first, inputs = setting(shape)
    fit = Fit(second @ first, inputs @ inputs.T)
    linear = nn.Linear(shape[1], shape[0]).double()
    layer = Remapped().fitter.factored(linear, second, first, torch.float64, Bits16(), fit)
    if shape[0] > shape[1]:
        assert layer.rest is not None
        seen = dense_weight_of(layer.first) @ inputs
        wanted = torch.linalg.lstsq(seen.T, (second @ first @ inputs)[shape[1] :].T).solution.T
        torch.testing.assert_close(dense_weight_of(layer.rest), wanted, rtol=1e-4, atol=1e-4)
    else:
        # Columns of 16 bits come behind those of codes, and lose nothing of their own.
        assert layer.rest is not None
        codes, rest = dense_weight_of(layer.first), dense_weight_of(layer.rest)
        missing = first @ inputs - codes @ inputs[: shape[0]]
        wanted = torch.linalg.lstsq(inputs[shape[0] :].T, missing.T).solution.T
        # Up to what keeps a moment that is all but singular from being solved.
        least = (missing - wanted @ inputs[shape[0] :]).norm()
        plain = ((first[:, : shape[0]] - codes) @ inputs[: shape[0]]).norm()
        assert (missing - rest @ inputs[shape[0] :]).norm() < 1.5 * least < 0.5 * plain
