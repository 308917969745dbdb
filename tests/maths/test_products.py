"""Products of bfloat16 numbers are exact, however they are multiplied."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eckart.maths.products import GRAM_COLUMNS, cross, gram


def rows(tokens: int, features: int, seed: int) -> Tensor:
    """Return bfloat16 numbers of very different size, held in float32."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10 ** (3 * torch.rand(features, generator=generator))
    return (torch.randn(tokens, features, generator=generator) * sizes).bfloat16().float()


@pytest.mark.parametrize("shape", [(1, 1), (40, 7), (3, GRAM_COLUMNS + 1), (300, 64)])
def test_sums_of_bfloat16_numbers_have_the_digits_of_float32(shape: tuple[int, int]) -> None:
    left, right = rows(*shape, 1), rows(*shape, 2)
    for other, found in ((right, cross(left, right, short=True)), (left, gram(left, short=True))):
        assert found.dtype == torch.float32
        sizes = torch.outer(left.double().norm(dim=0), other.double().norm(dim=0))
        assert ((found.double() - left.double().T @ other.double()).abs() <= 1e-6 * sizes).all()
    assert torch.equal(gram(left, short=True), gram(left, short=True).T)


def test_others_are_multiplied_as_they_are() -> None:
    wide = torch.randn(30, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(gram(wide), wide.T @ wide)
    torch.testing.assert_close(cross(wide, wide[:, :2]), wide.T @ wide[:, :2])
