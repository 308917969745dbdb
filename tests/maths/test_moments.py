from __future__ import annotations

import pytest
import torch

from eckart.errors import NonFiniteError
from eckart.maths.moments import Moments, relative_error
from eckart.maths.products import GRAM_COLUMNS, gram
from eckart.maths.whitening import FLOAT32_FLOOR, FLOAT64_FLOOR


def streams(tokens: int = 50, features: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    original = torch.randn(tokens, features, generator=generator, dtype=torch.float32)
    return original, original + 0.3 * torch.randn(tokens, features, generator=generator)


def collect(original: torch.Tensor, compressed: torch.Tensor, batch: int) -> Moments:
    moments = Moments.zeros(original.shape[1], paired=True, device=torch.device("cpu"))
    for start in range(0, len(original), batch):
        moments.add(compressed[start : start + batch], original[start : start + batch])
    return moments


def test_sums_equal_the_definition_whatever_the_batches() -> None:
    original, compressed = streams()
    moments = collect(original, compressed, batch=7)
    x, z = original.double(), compressed.double()
    torch.testing.assert_close(moments.second_moment, z.T @ z, rtol=1e-5, atol=1e-5)
    assert moments.shift is not None
    torch.testing.assert_close(moments.shift, (x - z).T @ z, rtol=1e-5, atol=1e-5)
    assert moments.tokens == 50


@pytest.mark.parametrize("size", [1, 7, GRAM_COLUMNS, GRAM_COLUMNS + 1, 2 * GRAM_COLUMNS + 3])
def test_gram_is_the_product_of_the_columns_with_one_another(size: int) -> None:
    rows = torch.randn(11, size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gram(rows), rows.T @ rows)


def test_nearly_equal_streams_keep_their_difference() -> None:
    original, _ = streams()
    original = original.double().float()
    compressed = original + 1e-6 * torch.sign(original)
    moments = collect(original, compressed, batch=50)
    assert moments.shift is not None
    expected = (original.double() - compressed.double()).T @ compressed.double()
    assert (moments.shift - expected).norm() < 1e-4 * expected.norm()


def test_pairs_must_have_one_shape() -> None:
    original, compressed = streams()
    moments = Moments.zeros(6, paired=True, device=torch.device("cpu"))
    with pytest.raises(ValueError, match="one shape"):
        moments.add(compressed, original[:-1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_single_bad_number_is_noticed(value: float) -> None:
    original, compressed = streams()
    assert collect(original, compressed, batch=10).is_finite()
    compressed[17, 3] = value
    assert not collect(original, compressed, batch=10).is_finite()


def test_relative_error_equals_the_one_from_the_activations() -> None:
    original, compressed = streams()
    weight = torch.randn(4, 6, dtype=torch.float64)
    product = weight + 0.1 * torch.randn(4, 6, dtype=torch.float64)
    x, z = original.double().T, compressed.double().T
    energy = float((weight @ x).square().sum())
    paired = relative_error(weight, product, collect(original, compressed, batch=50), energy)
    assert paired == pytest.approx(float((weight @ x - product @ z).norm() / (weight @ x).norm()), rel=1e-5)

    single = Moments.zeros(6, paired=False, device=torch.device("cpu"))
    single.add(original)
    expected = float(((weight - product) @ x).norm() / (weight @ x).norm())
    assert relative_error(weight, product, single) == pytest.approx(expected, rel=1e-5)


def test_relative_error_without_data_is_of_the_weight() -> None:
    weight = torch.eye(3, dtype=torch.float64)
    assert relative_error(weight, 0.5 * weight, None) == pytest.approx(0.5)
    assert relative_error(torch.zeros(3, 3, dtype=torch.float64), weight, None) == 0


def test_sums_and_means_equal_the_definition() -> None:
    original, compressed = streams()
    moments = collect(original, compressed, batch=7)
    torch.testing.assert_close(moments.mean, compressed.double().mean(dim=0))
    torch.testing.assert_close(moments.shift_sum, (original.double() - compressed.double()).sum(dim=0))
    single = Moments.zeros(6, paired=False, device=torch.device("cpu"))
    single.add(original)
    assert single.original_sum is None
    torch.testing.assert_close(single.mean, original.double().mean(dim=0))


def test_sums_of_residual_streams() -> None:
    _, inputs = streams()
    difference = torch.randn(50, 4, generator=torch.Generator().manual_seed(2))
    moments = Moments.zeros(6, paired=True, device=torch.device("cpu"))
    for batch in (slice(0, 30), slice(30, 50)):
        moments.add_residual("norm", difference[batch], inputs[batch])
    expected = difference.double().T @ inputs.double()
    torch.testing.assert_close(moments.residuals["norm"].cross, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(moments.residuals["norm"].sum, difference.double().sum(dim=0), rtol=1e-5, atol=1e-5)
    assert moments.is_finite()
    with pytest.raises(ValueError, match="10 tokens of a residual stream cannot be paired with 9"):
        moments.add_residual("norm", difference[:10], inputs[:9])
    moments.add_residual("norm", difference * torch.inf, inputs)
    assert not moments.is_finite()


@pytest.mark.parametrize("paired", [False, True])
def test_relative_error_with_a_constant(paired: bool) -> None:
    original, compressed = streams()
    original, compressed = original + 2, compressed + 3
    weight = torch.randn(4, 6, dtype=torch.float64)
    product, constant = weight + 0.1 * torch.randn(4, 6, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    x, z = original.double().T, (compressed if paired else original).double().T
    moments = collect(original, compressed, batch=50)
    if not paired:
        moments = Moments.zeros(6, paired=False, device=torch.device("cpu"))
        moments.add(original)
    energy = float((weight @ x).square().sum())
    expected = float((weight @ x - product @ z - constant[:, None]).norm() / (weight @ x).norm())
    assert relative_error(weight, product, moments, energy, constant) == pytest.approx(expected, rel=1e-5)


def paired(inputs: torch.Tensor, original: torch.Tensor) -> Moments:
    moments = Moments.zeros(inputs.shape[1], paired=True, device=torch.device("cpu"))
    moments.add(inputs, original)
    return moments


def test_paired_inputs_of_float32_are_multiplied_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, original = (3000 + torch.randn(50, 4, generator=generator) for _ in range(2))
    moments = paired(inputs, original)
    exact = inputs.double().T @ inputs.double()
    assert (moments.second_moment - exact).norm() / exact.norm() < 1e-15
    shift = (original.double() - inputs.double()).T @ inputs.double()
    assert moments.shift is not None
    assert (moments.shift - shift).norm() / shift.norm() < 1e-14
    assert moments.floor == FLOAT64_FLOOR


def test_what_was_summed_of_narrower_products_is_told_from_rounding_by_a_higher_floor() -> None:
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    alone = Moments.zeros(4, paired=False, device=torch.device("cpu"))
    alone.add(inputs)
    assert alone.floor == FLOAT32_FLOOR
    assert paired(inputs.bfloat16(), inputs.bfloat16()).floor == FLOAT32_FLOOR


def test_finite_numbers_whose_squares_overflow_are_called_what_they_are() -> None:
    _, compressed = streams()
    moments = Moments.zeros(6, paired=False, device=torch.device("cpu"))
    moments.add(compressed * 1e20)
    with pytest.raises(NonFiniteError, match=r"input of a, b is finite and too large .*: features of \d\.\de\+\d\d on"):
        moments.check_finite("a", "b")
    moments.add(compressed * torch.inf)
    with pytest.raises(NonFiniteError, match="input of a is NaN or infinite"):
        moments.check_finite("a")


def test_paired_numbers_have_room_for_their_squares() -> None:
    original, compressed = streams()
    moments = paired(compressed * 1e20, original * 1e20)
    moments.check_finite("a")
    moments.add(compressed, original * torch.inf)
    with pytest.raises(NonFiniteError, match="input of a is NaN or infinite"):
        moments.check_finite("a")
