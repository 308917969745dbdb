from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eckart.maths.feedback import round_with_feedback, spread_of
from eckart.maths.quantization import QuantScheme, as_stored, find_scales, from_codes, round_to_scheme, scale_codes

DOUBLE = torch.float64
GRIDS = [
    *(QuantScheme(8), QuantScheme(8, 5), QuantScheme(4, 8), QuantScheme(4), QuantScheme(4, 1000)),
    *(QuantScheme(3, 8), QuantScheme(3), QuantScheme(2, 4), QuantScheme(3, 4, scale_bits=8)),
]


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def moment(size: int, tokens: int, seed: int = 1) -> torch.Tensor:
    """Of correlated inputs."""
    inputs = matrix(size, size, seed) @ matrix(size, tokens, seed + 1)
    return inputs @ inputs.T / tokens


@pytest.mark.parametrize("scheme", GRIDS)
@given(rows=st.integers(1, 6), columns=st.integers(1, 20), seed=st.integers(0, 100))
def test_numbers_are_rounded_to_the_nearest_multiple(scheme: QuantScheme, rows: int, columns: int, seed: int) -> None:
    weight = matrix(rows, columns, seed)
    scales = find_scales(weight, scheme)
    assert scales.shape == (rows, scheme.groups(columns))
    codes = round_to_scheme(weight, scales, scheme)
    assert codes.min() >= -scheme.largest - 1
    assert codes.max() <= scheme.largest
    # By brute force over all codes.
    all_codes = torch.arange(-scheme.largest - 1, scheme.largest + 1, dtype=DOUBLE)
    distances = (weight[..., None] - all_codes * scheme.per_column(scales, columns)[..., None]).abs()
    found = (weight - from_codes(codes, scales, scheme)).abs()
    torch.testing.assert_close(found, distances.amin(-1))


@pytest.mark.parametrize("group", [None, 4])
def test_eight_bits_clip_nothing(group: int | None) -> None:
    scheme = QuantScheme(8, group)
    weight = matrix(5, 12)
    scales = find_scales(weight, scheme)
    error = (weight - from_codes(round_to_scheme(weight, scales, scheme), scales, scheme)).abs()
    assert (error <= scheme.per_column(scales, 12) / 2 + 1e-12).all()


def test_four_bits_clip_where_that_loses_less() -> None:
    weight = torch.cat([0.1 * matrix(1, 63), torch.full((1, 1), 1.0, dtype=DOUBLE)], dim=1)
    scheme = QuantScheme(4)
    plain = weight.abs().amax() / -(scheme.largest + 1)
    scales = find_scales(weight, scheme)
    assert plain < scales < 0  # the number furthest from zero is above it

    def loss(scale: torch.Tensor) -> float:
        return float((weight - from_codes(round_to_scheme(weight, scale, scheme), scale, scheme)).square().sum())

    assert loss(scales) < loss(plain.reshape(1, 1))
    # An error in the last column is not to be had.
    important = torch.ones(64, dtype=DOUBLE)
    important[-1] = 1e6
    assert find_scales(weight, scheme, important) < scales


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scheme", [QuantScheme(4, 32), QuantScheme(8, 32)])
@given(power=st.floats(-60, 60), seed=st.integers(0, 100), full=st.booleans())
@settings(max_examples=25, deadline=None)
def test_scales_as_they_are_stored_are_neither_zero_nor_infinite(
    scheme: QuantScheme, dtype: torch.dtype, power: float, seed: int, full: bool
) -> None:
    weight = 0.1 * matrix(2, 64, seed)
    weight[0, :32] *= 10.0**power if full else 0
    weight[0, 3] = 10.0**power
    scales = find_scales(weight, scheme, stored=dtype)
    assert scales.dtype == dtype
    assert (scales != 0).all()
    assert torch.isfinite(scales).all()
    second = torch.eye(64, dtype=DOUBLE) + 0.3
    for codes in (
        round_to_scheme(weight, scales, scheme),
        round_with_feedback(weight, scales, scheme, spread_of(second)),
    ):
        found = from_codes(codes, scales.double(), scheme)
        # The other row never depends on what is odd in this one.
        assert (weight[1] - found[1]).norm() < 0.3 * weight[1].norm()
        if 10.0**power < 1e-3:  # neither does the rest of the row: its own group of numbers is as good as zero
            assert (weight[0, 32:] - found[0, 32:]).norm() < 0.3 * weight[0, 32:].norm()


@pytest.mark.parametrize(("bits", "group", "most"), [(4, 64, 0.0085), (3, 64, 0.032), (2, 64, 0.129), (2, 32, 0.115)])
def test_the_error_of_few_bits_on_normal_numbers(bits: int, group: int, most: float) -> None:
    """Of scales of one sign, of which the last code is never used, it is 0.009, 0.036, 0.19 and 0.17."""
    weight, scheme = matrix(500, group), QuantScheme(bits, group)
    scales = find_scales(weight, scheme)
    codes = round_to_scheme(weight, scales, scheme)
    assert codes.min() == -scheme.largest - 1
    assert codes.max() == scheme.largest
    assert (weight - from_codes(codes, scales, scheme)).square().mean() < most


@pytest.mark.parametrize("scheme", [QuantScheme(4, 8), QuantScheme(3, 8), QuantScheme(2, 4), QuantScheme(5)])
@given(power=st.integers(-200, 200), seed=st.integers(0, 100), weighted=st.sampled_from(["same", "some", "none"]))
def test_no_other_scale_that_is_tried_loses_less(scheme: QuantScheme, power: int, seed: int, weighted: str) -> None:
    weight = matrix(3, 13, seed) * 2.0**power
    costs = {
        "same": torch.ones(13, dtype=DOUBLE),
        "some": (5 * matrix(1, 13, seed + 1)[0]).exp(),
        "none": torch.zeros(13, dtype=DOUBLE),
    }[weighted]

    def losses(scales: torch.Tensor) -> torch.Tensor:
        """Return the loss of each group, (rows, groups), of sizes near 1."""
        errors = (weight - from_codes(round_to_scheme(weight, scales, scheme), scales, scheme)) * 2.0**-power
        size, groups = scheme.group_size(13), scheme.groups(13)
        errors = torch.nn.functional.pad(errors.square() * costs, (0, groups * size - 13))
        return errors.reshape(3, groups, size).sum(dim=-1)

    groups = torch.nn.functional.pad(weight, (0, scheme.groups(13) * scheme.group_size(13) - 13)).reshape(
        3, scheme.groups(13), -1
    )
    furthest = groups.gather(-1, groups.abs().argmax(dim=-1, keepdim=True))[..., 0]
    least = torch.stack(
        [losses(-share * furthest / 2 ** (scheme.bits - 1)) for share in torch.linspace(1.1, 0.5, 17).tolist()]
    ).amin(dim=0)
    assert (losses(find_scales(weight, scheme, costs)) <= least * (1 + 1e-4) + 1e-9 * costs.max()).all()


def test_a_scale_of_zero_feeds_nothing_back() -> None:
    weight = 0.1 * matrix(2, 64)
    weight[0, :32] = 0
    weight[0, 3] = 6e-8
    scheme = QuantScheme(4, 32)
    scales = find_scales(weight, scheme)
    scales[0, 0] = 0
    codes = round_with_feedback(weight, scales, scheme, spread_of(torch.eye(64, dtype=DOUBLE) + 0.3))
    assert not codes[0, :32].any()
    assert codes[0, 32:].any()


def test_zeros_stay_zeros() -> None:
    for scheme in GRIDS:
        weight = torch.zeros(3, 10, dtype=DOUBLE)
        scales = find_scales(weight, scheme)
        assert torch.isfinite(scales).all()
        assert (scales > 0).all()
        assert not round_to_scheme(weight, scales, scheme).any()
        assert not round_with_feedback(weight, scales, scheme, spread_of(moment(10, 50))).any()


@pytest.mark.parametrize(
    ("group", "columns", "size"),
    [
        (128, 576, 64),
        (128, 1536, 128),
        (128, 96, 32),
        (128, 40, 128),
        (32, 48, 32),
        (100, 50, 50),
        (None, 7, 7),
        (4, 6, 4),
    ],
)
def test_a_group_is_halved_until_it_divides_a_row(group: int | None, columns: int, size: int) -> None:
    scheme = QuantScheme(4, group)
    assert scheme.group_size(columns) == size
    scales = find_scales(torch.randn(3, columns, dtype=torch.float64), scheme)
    assert scales.shape == (3, scheme.groups(columns)) == (3, -(-columns // size))
    assert scheme.per_column(scales, columns).shape == (3, columns)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@given(power=st.integers(-12, 4), spread=st.floats(0, 4), seed=st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_scales_of_8_bits(dtype: torch.dtype, power: int, spread: float, seed: int) -> None:
    scales = matrix(5, 7, seed).sign() * (spread * matrix(5, 7, seed + 1).tanh()).exp() * 2.0**power
    scales[0, 2] = 0  # that of a group of zeros
    scheme = QuantScheme(3, 8, scale_bits=8)
    stored = as_stored(scales, dtype, scheme)
    assert stored.dtype == dtype
    assert (stored.sign() == scales.sign())[scales != 0].all()
    assert (stored != 0).all()
    # Half a step at most, the step being a 63rd of the largest of a row or less; and one step stands for zero.
    largest = scales.abs().amax(dim=1, keepdim=True)
    assert ((stored.double() - scales).abs() <= largest / 63).all()
    assert ((stored.double() - scales).abs() <= largest / 126)[scales.abs() >= largest / 63].all()
    assert torch.equal(as_stored(stored.double(), dtype, scheme), stored)
    codes, unit = scale_codes(stored)
    assert torch.equal(codes.to(dtype) * unit, stored)
    assert codes.dtype is torch.int8


def test_a_group_of_zeros_takes_nothing_from_its_neighbours() -> None:
    weight = 0.01 * matrix(4, 64)
    weight[:, :32] = 0
    scheme = QuantScheme(4, 32, scale_bits=8)
    scales = find_scales(weight, scheme)
    found = from_codes(round_to_scheme(weight, scales, scheme), scales, scheme)
    assert not found[:, :32].any()
    assert (found - weight).norm() < 0.1 * weight.norm()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_scales_of_8_bits_lose_hardly_more(bits: int) -> None:
    weight = matrix(200, 256) * (1 + matrix(1, 256, 5).abs())

    def loss(scheme: QuantScheme) -> float:
        scales = find_scales(weight, scheme, stored=torch.bfloat16).double()
        return float((weight - from_codes(round_to_scheme(weight, scales, scheme), scales, scheme)).square().sum())

    assert loss(QuantScheme(bits, 32, scale_bits=8)) < 1.01 * loss(QuantScheme(bits, 32))
