"""Rounding with feedback, against literal implementations that do one number after another."""

from __future__ import annotations

import pytest
import torch
from tests.maths.test_quantization import DOUBLE, GRIDS, matrix, moment

from eckart.maths.feedback import (
    DAMPING,
    ROW_BLOCKS,
    cast_with_feedback,
    damped,
    quantize,
    round_with_feedback,
    spread_of,
)
from eckart.maths.quantization import QuantScheme, find_scales, from_codes, round_to_scheme


def literal_feedback(
    weight: torch.Tensor, scales: torch.Tensor, scheme: QuantScheme, second: torch.Tensor
) -> torch.Tensor:
    """Optimal brain quantisation in the order of the columns: the inverse is made anew for what is left, each time."""
    left, size = weight.clone(), len(second)
    damped = second + DAMPING * second.diagonal().mean() * torch.eye(size, dtype=DOUBLE)
    scale = scheme.per_column(scales, size)
    codes = torch.zeros_like(weight)
    for column in range(size):
        inverse = torch.linalg.inv(damped[column:, column:])
        codes[:, column] = (left[:, column] / scale[:, column]).round().clamp(-scheme.largest - 1, scheme.largest)
        error = (left[:, column] - codes[:, column] * scale[:, column]) / inverse[0, 0]
        left[:, column:] -= torch.outer(error, inverse[0])
    return codes.to(torch.int8)


@pytest.mark.parametrize("scheme", GRIDS)
@pytest.mark.parametrize("columns", [7, 150])
def test_feedback_equals_a_literal_implementation(scheme: QuantScheme, columns: int) -> None:
    weight, second = matrix(5, columns), moment(columns, 3 * columns)
    scales = find_scales(weight, scheme)
    found = round_with_feedback(weight, scales, scheme, spread_of(second))
    expected = literal_feedback(weight, scales, scheme, second)
    # A number half-way between two codes may fall to either side.
    assert (found != expected).double().mean() < 0.01


@pytest.mark.parametrize("tokens", [10, 400])
def test_feedback_loses_less_also_where_inputs_are_few(tokens: int) -> None:
    weight, second = matrix(30, 64), moment(64, tokens)
    for scheme in (QuantScheme(4, 32), QuantScheme(4), QuantScheme(8)):
        scales = find_scales(weight, scheme)

        def loss(codes: torch.Tensor, scales: torch.Tensor = scales, scheme: QuantScheme = scheme) -> float:
            error = weight - from_codes(codes, scales, scheme)
            return float(((error @ second) * error).sum())

        plain, fed_back = (
            loss(round_to_scheme(weight, scales, scheme)),
            loss(round_with_feedback(weight, scales, scheme, spread_of(second))),
        )
        assert fed_back < 0.8 * plain


def test_without_any_input_it_is_plain_rounding() -> None:
    weight, scheme = matrix(4, 6), QuantScheme(4)
    scales = find_scales(weight, scheme)
    expected = round_to_scheme(weight, scales, scheme)
    assert torch.equal(
        round_with_feedback(weight, scales, scheme, spread_of(torch.zeros(6, 6, dtype=DOUBLE))), expected
    )


def test_a_cast_with_feedback_loses_less_than_the_nearest_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(24, 24, generator=generator, dtype=torch.float64)
    inputs = mixing @ torch.randn(24, 300, generator=generator, dtype=torch.float64)
    weight = torch.randn(16, 24, generator=generator, dtype=torch.float64)
    found = cast_with_feedback(weight, torch.bfloat16, inputs @ inputs.T)
    assert found.dtype is torch.bfloat16
    lost = [float(((w.double() - weight) @ inputs).norm()) for w in (found, weight.bfloat16())]
    assert lost[0] < 0.8 * lost[1]
    assert torch.equal(cast_with_feedback(weight, torch.bfloat16, torch.zeros(24, 24).double()), weight.bfloat16())


def lost(error: torch.Tensor, second: torch.Tensor, metric: torch.Tensor | None = None) -> float:
    rows = error @ second if metric is None else metric @ error @ second
    return float((rows * error).sum())


def test_blocks_of_rows_make_up_for_those_in_front() -> None:
    """YAQA with G: codes of a block are those of GPTQ for the target that the errors in front of it have moved."""
    weight, second, metric, scheme = matrix(24, 32), moment(32, 200), moment(24, 60, 7), QuantScheme(3, 16)
    codes, scales = quantize(weight, scheme, second, metric)
    regular, size = damped(metric), -(-24 // ROW_BLOCKS)
    error = weight - from_codes(codes, scales, scheme)
    for start in range(0, 24, size):
        block, before = slice(start, start + size), slice(0, start)
        # The best shift of all rows to come minimises tr(G E S E^T) over them; whatever S is.
        rest = slice(start, 24)
        shift = -torch.linalg.solve(regular[rest, rest], regular[rest, before] @ error[before])
        target = weight[block] - shift[:size]
        alone, alone_scales = quantize(target, scheme, second)
        assert torch.equal(alone, codes[block])
        torch.testing.assert_close(alone_scales, scales[block])


def test_both_sides_lose_less_than_one() -> None:
    weight, second, metric, scheme = matrix(48, 64), moment(64, 400), moment(48, 200, 9), QuantScheme(3, 32)
    one, both = (quantize(weight, scheme, second, side) for side in (None, metric))
    losses = [lost(weight - from_codes(codes, scales, scheme), second, metric) for codes, scales in (one, both)]
    assert losses[1] < 0.8 * losses[0]
    plain = quantize(weight, scheme, second, torch.eye(48, dtype=DOUBLE))
    alone = torch.cat([quantize(part, scheme, second)[0] for part in weight.split(6)])
    assert torch.equal(plain[0], alone)
    nothing = quantize(weight, scheme, torch.zeros_like(second), sweeps=2)
    assert torch.equal(nothing[0], round_to_scheme(weight, nothing[1], scheme))
