from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eckart.maths.moments import Moments
from eckart.maths.prior import PRIOR_TOKENS, add_prior, balance

WIDTH = 4


def rows(seed: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs in both models, and weights."""
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(tokens, WIDTH, generator=generator).double() for _ in range(2))
    return one, one + 0.3 * other, torch.rand(tokens, generator=generator).double()


def moments_of(x: Tensor, z: Tensor, weights: Tensor | None = None) -> Moments:
    found = Moments.zeros(WIDTH, paired=True, device=torch.device("cpu"), original=True)
    found.add(z, x, weights)
    return found


def fields(moments: Moments) -> dict[str, Tensor]:
    assert moments.shift is not None
    assert moments.original is not None
    assert moments.sum is not None
    assert moments.original_sum is not None
    return {
        "second": moments.second_moment,
        "shift": moments.shift,
        "original": moments.original,
        "absolute": moments.absolute,
        "sum": moments.sum,
        "original sum": moments.original_sum,
        "tokens": torch.tensor(float(moments.tokens)).double(),
    }


def assert_same(one: Moments, other: Moments) -> None:
    for name, found in fields(one).items():
        torch.testing.assert_close(found, fields(other)[name], msg=name)


def test_weighed_tokens_are_tokens_that_come_so_often() -> None:
    x, z, _ = rows(0, 10)
    weights = torch.tensor([0, 1, 2, 3, 1, 0, 0, 4, 1, 1])
    often = weights.repeat_interleave(weights) * 0 + torch.arange(10).repeat_interleave(weights)
    assert_same(moments_of(x, z, weights), moments_of(x[often], z[often]))


def test_the_prior_is_what_siblings_are_handed_so_often() -> None:
    data = [rows(seed, tokens) for seed, tokens in enumerate((10, 0, 3))]
    siblings = [moments_of(x, z) for x, z, _ in data]
    add_prior(siblings, inner=False)
    x, z = (torch.cat([item[place] for item in data]) for place in (0, 1))
    for (one, other, _), found in zip(data, siblings, strict=True):
        weights = torch.full((len(x),), PRIOR_TOKENS * WIDTH / len(x)).double()
        expected = moments_of(torch.cat([x, one]), torch.cat([z, other]), torch.cat([weights, torch.ones(len(one))]))
        assert_same(found, expected)
        assert found.tokens == pytest.approx(len(one) + PRIOR_TOKENS * WIDTH)


def test_of_features_of_their_own_only_the_size_is_the_siblings() -> None:
    data = [rows(seed, tokens) for seed, tokens in enumerate((10, 0))]
    siblings, before = ([moments_of(x, z) for x, z, _ in data] for _ in range(2))
    add_prior(siblings, inner=True)
    size = data[0][1].square().mean()  # of z
    for found, known in zip(siblings, before, strict=True):
        expected = known.second_moment + PRIOR_TOKENS * WIDTH * size * torch.eye(WIDTH).double()
        torch.testing.assert_close(found.second_moment, expected)
        torch.testing.assert_close(fields(found)["shift"], fields(known)["shift"])
        torch.testing.assert_close(fields(found)["sum"], fields(known)["sum"])
        assert found.tokens == pytest.approx(known.tokens + PRIOR_TOKENS * WIDTH)


@pytest.mark.parametrize(("share", "tokens"), [(0.0, 5), (1.0, 0)])
def test_there_is_none_if_it_counts_for_nothing_or_nobody_was_handed_anything(share: float, tokens: int) -> None:
    x, z, _ = rows(0, tokens)
    siblings = [moments_of(x, z)]
    add_prior(siblings, inner=False, share=share)
    assert_same(siblings[0], moments_of(x, z))


def test_balanced_tokens_weigh_one_in_the_mean() -> None:
    data = [rows(seed, tokens) for seed, tokens in enumerate((10, 4))]
    siblings = [moments_of(x, z, 3 * weights) for x, z, weights in data]
    balance(siblings, 14)
    mean = torch.cat([weights for _, _, weights in data]).mean()
    for (x, z, weights), found in zip(data, siblings, strict=True):
        assert_same(found, moments_of(x, z, weights / mean))
    assert sum(found.tokens for found in siblings) == pytest.approx(14)
    nothing = [moments_of(x, z, 0 * weights) for x, z, weights in data]
    balance(nothing, 14)
    assert not nothing[0].second_moment.any()
