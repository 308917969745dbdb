"""A prior for the moments of experts, which few tokens reach: what their siblings are handed."""

from __future__ import annotations

from collections.abc import Sequence

from eckart.maths.moments import Moments

# How many tokens the prior counts for, as a share of the features of an input.
PRIOR_TOKENS = 1.0


def add_prior(siblings: Sequence[Moments], *, inner: bool, share: float = PRIOR_TOKENS) -> None:
    """Add to the moments of each sibling those of some tokens such as all of them are handed; nothing if none was.

    Args:
        siblings: moments of inputs with n features; are changed.
        inner: whether features of one are not those of another, such as hidden units. The prior is then the mean of
            their size in all directions alike, the same in both models.
        share: of n, how many tokens the prior counts for.
    """
    tokens = sum(moments.tokens for moments in siblings)
    if not tokens or not share:
        return
    first = siblings[0]
    mean = first.like()
    for moments in siblings:
        mean.add_sums(moments)
    if inner:
        mean = mean.isotropic()
    factor = share * len(first.second_moment) / tokens
    for moments in siblings:
        moments.add_sums(mean, factor)
        moments.floor = max(moments.floor, mean.floor)


def balance(siblings: Sequence[Moments], rows: int) -> None:
    """Scale the moments of siblings, sums over weighed tokens, so that a token weighs 1 in the mean.

    Args:
        siblings: are changed.
        rows: tokens that they were summed over.
    """
    weights = sum(moments.tokens for moments in siblings)
    if weights > 0:
        for moments in siblings:
            moments.scale(rows / weights)
