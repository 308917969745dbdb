r"""Blended with ACES: SAES-SVD complete (arXiv 2602.03051).

``min || W (b X + (1 - b) X') - W' X' ||^2``: between shift-aware (b = 0) and anchored (b = 1). ACES picks b for each
linear in closed form, as the blend whose energy the r leading components retain best (section 2.3 of the paper).
"""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from eckart.maths.moments import Moments
from eckart.maths.whitening import Whitening
from eckart.methods.objectives.paired import PairedObjective


class Blended(PairedObjective):
    """Z is X' and T is ``W (b X + (1 - b) X')``, with b found by ACES within its bounds.

    Attributes:
        beta_min: lower bound of b. The paper's table 4: without a floor (0) the result is clearly worse.
        beta_max: upper bound of b; ``beta_min == beta_max`` fixes b.
        beta_cap: b is cut to this after ACES (below 1 in the paper, which gives no number).
        beta_shrink: and then multiplied by this, in (0, 1] (the paper gives no number).
        damping: share of the mean diagonal added to S but not to P (the paper's lambda, no number given).
    """

    name: Literal["blended"] = "blended"

    beta_min: float = Field(0.25, ge=0.0, le=1.0)
    beta_max: float = Field(0.75, ge=0.0, le=1.0)
    beta_cap: float = Field(1.0, ge=0.0, le=1.0)
    beta_shrink: float = Field(1.0, gt=0.0, le=1.0)
    damping: float = Field(0.0, ge=0.0)

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        if self.beta_min > self.beta_max:
            raise ValueError(f"beta_min ({self.beta_min}) is above beta_max ({self.beta_max})")
        return self

    @property
    def follows_rank(self) -> bool:
        """Whether b is found, for each rank another one."""
        return self.beta_min < self.beta_max

    def whitening(self, moments: Moments | None, in_features: int, device: torch.device) -> Whitening:
        """Return the root of ``S + (t + lambda) I``."""
        assert moments is not None
        return self.root(moments, self.shrinkage + self.damping)

    def unblended(self, weight: Tensor, moments: Moments, whitening: Whitening) -> Tensor:
        """Return ``W (S + t I)``, which is not damped."""
        diagonal = moments.second_moment.diagonal()
        if self.affine:
            diagonal = diagonal - moments.tokens * moments.mean.square()
        return super().unblended(weight, moments, whitening) - self.damping * diagonal.mean() * weight

    def blend(self, start: Tensor, direction: Tensor, whitening: Whitening, rank: int) -> float:
        """Return the b that ACES finds at this rank."""
        inverse = whitening.inverse.T
        beta = aces(start @ inverse, direction @ inverse, rank, self.beta_min, self.beta_max)
        return self.beta_shrink * min(beta, self.beta_cap)


def aces(start: Tensor, direction: Tensor, rank: int, beta_min: float, beta_max: float) -> float:
    r"""Return the blend of ``start + beta * direction`` that retains most energy in ``rank`` components.

    The tail's share of the energy, in the subspaces of ``start`` held fixed, is the ratio of two parabolas
    ``(a + 2 b beta + c beta^2) / (A + 2 B beta + C beta^2)``; its stationary points are the roots of
    ``(c B - b C) beta^2 + (c A - a C) beta + (b A - a B)`` (SAES-SVD, section 3.3).

    Args:
        start: ``S0 = W H L``, (m, k) float64: the whitened target at beta = 0.
        direction: ``D0 = W Delta L``, (m, k) float64.
        rank: r, how many components are kept.
        beta_min: lower bound.
        beta_max: upper bound.
    """
    left, values, right = torch.linalg.svd(start, full_matrices=False)
    along = ((left.T @ direction) * right).sum(dim=1)  # u_i^T D0 v_i, one number a component
    kept_left, kept_right = left[:, :rank], right[:rank]
    inside_left = kept_left.T @ direction
    tail_start = float(values[rank:].square().sum())
    tail_cross = float((values[rank:] * along[rank:]).sum())
    tail_direction = float(
        direction.square().sum()
        - inside_left.square().sum()
        - (direction @ kept_right.T).square().sum()
        + (inside_left @ kept_right.T).square().sum()
    )
    all_start = float(values.square().sum())
    all_cross = float((values * along).sum())
    all_direction = float(direction.square().sum())

    def tail_share(beta: float) -> float:
        tail = tail_start + 2 * tail_cross * beta + tail_direction * beta**2
        total = all_start + 2 * all_cross * beta + all_direction * beta**2
        return tail / total if total > 0 else math.inf

    roots = quadratic_roots(
        tail_direction * all_cross - tail_cross * all_direction,
        tail_direction * all_start - tail_start * all_direction,
        tail_cross * all_start - tail_start * all_cross,
    )
    candidates = [beta_min, beta_max, *(root for root in roots if beta_min < root < beta_max)]
    return min(candidates, key=tail_share)


def quadratic_roots(a: float, b: float, c: float) -> list[float]:
    """Return the real roots of ``a x^2 + b x + c``, by the form that does not cancel; none if it is constant."""
    if a == 0:
        return [-c / b] if b != 0 else []
    discriminant = b * b - 4 * a * c
    if discriminant < 0:
        return []
    q = -0.5 * (b + math.copysign(math.sqrt(discriminant), b))
    return [q / a] + ([c / q] if q != 0 else [])
