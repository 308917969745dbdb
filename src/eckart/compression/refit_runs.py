"""Fits what experts with one basis have of their own, each to the tokens that it is handed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from eckart.maths.lowrank import least_squares, refit
from eckart.maths.moments import Moments
from eckart.methods.objectives import Objective


class Refit(NamedTuple):
    """What belongs to a basis ``first``.

    Attributes:
        second: (m, rank) float64.
        constant: gives, for the weight as it is stored, what is added to the bias, (m,) float64; None for nothing.
    """

    second: Tensor
    constant: Callable[[Tensor], Tensor] | None


def refit_runs(objective: Objective, weight: Tensor, second: Tensor, first: Tensor, moments: Moments) -> Refit:
    """Return the best ``second`` for ``first``, the rows of each run for the run's own tokens.

    Args:
        objective: says what is minimised.
        weight: (m, n) float64.
        second: (m, rank) float64, fitted to the tokens of all runs; stays where a run has none.
        first: (rank, n) float64.
        moments: with those of each run.
    """
    size, rank = len(weight) // len(moments.runs), len(first)
    found: list[Tensor] = []
    means: list[tuple[Tensor, Tensor]] = []  # of targets and of inputs, where there is a constant
    for number, seen in enumerate(moments.runs):
        rows = slice(number * size, (number + 1) * size)
        if not seen.tokens:
            found.append(second[rows])
            means.append((weight[rows] @ moments.mean, moments.mean))
            continue
        whitening = objective.whitening(seen, weight.shape[1], weight.device)
        target = objective.target(weight[rows], seen, whitening, rank)
        wanted = least_squares(whitening, target.cross, weight[rows])
        found.append(refit(second[rows], first, wanted, whitening.second_moment))
        if target.mean is not None:
            means.append((target.mean, seen.mean))

    def constant(product: Tensor) -> Tensor:
        parts = product.to(weight).chunk(len(moments.runs))
        return torch.cat([mean - part @ before for part, (mean, before) in zip(parts, means, strict=True)])

    return Refit(torch.cat(found), constant if objective.adds_bias else None)
