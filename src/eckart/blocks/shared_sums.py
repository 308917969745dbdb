"""Adds moments over all processes, once each is done with its own tokens."""

from __future__ import annotations

from collections.abc import Sequence

from eckart import processes
from eckart.maths.moments import Moments, ResidualMoments


def add_moments(found: Sequence[Moments]) -> None:
    """Let moments become those of the tokens of all processes.

    Args:
        found: of the same inputs in all processes, those that no token reached here, too; are changed.
    """
    if processes.size() == 1 or not found:
        return
    every = processes.gather([[moments.tokens, moments.floor, sorted(moments.residuals)] for moments in found])
    for moments, *known in zip(found, *every, strict=True):
        moments.tokens = sum(tokens for tokens, _, _ in known)
        moments.floor = max(floor for _, floor, _ in known)
        places = sorted({place for _, _, places in known for place in places})
        here = [moments.residuals.get(place) for place in places]
        device = moments.second_moment.device
        crosses = processes.add_found([None if residual is None else residual.cross for residual in here], device)
        sums = processes.add_found([None if residual is None else residual.sum for residual in here], device)
        for place, cross, total in zip(places, crosses, sums, strict=True):
            assert cross is not None
            assert total is not None
            moments.residuals[place] = ResidualMoments(cross, total)
    processes.add(known for moments in found for known in moments.sums)
