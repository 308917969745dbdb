"""What draws the whitened weight of a linear towards low rank while it is prepared: one class a penalty."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from eckart.device import moment_device
from eckart.methods.choice import Choice


@dataclass(frozen=True)
class Penalized:
    """A penalty of one linear in one step.

    Attributes:
        value: a 0-d tensor.
        gradient: by the whitened weight, (m, k).
        vectors: what the next step may start from.
    """

    value: Tensor
    gradient: Tensor
    vectors: Tensor


class Penalty(Choice):
    """A choice of what is small where ``M = C^T W L`` is nearly of low rank."""

    @property
    def decomposes_every(self) -> float:
        """Steps for one decomposition of all weights."""
        return math.inf

    @abstractmethod
    def at(self, step: int) -> float:
        """Return how much the mean penalty of a block's linears counts beside the block's relative error in a step."""

    @abstractmethod
    def of(self, matrix: Tensor, rank: int, energy: float, step: int, vectors: Tensor | None) -> Penalized:
        """Return the penalty of one linear.

        Args:
            matrix: M, (m, k) float32.
            rank: that the linear will get.
            energy: ``||M||_F^2`` before the training.
            step: counted from 0.
            vectors: of the step before; None in the first one.
        """


class Tail(Penalty):
    """The share of a linear's output energy that its rank will leave out: ``sum_{i > r} s_i(W L)^2 / ||W_0 L||^2``.

    It is no part of a published method. The share makes ``weight`` the same for linears of all sizes.

    Attributes:
        weight: of the mean over a block's linears, beside the block's relative error.
        refresh: steps after which the leading singular vectors are found again. Between them those of the last time
            stand for them, which bounds the tail from above.
    """

    name: Literal["tail"] = "tail"

    weight: float = Field(10.0, ge=0.0)
    refresh: int = Field(10, ge=1)

    @property
    def decomposes_every(self) -> float:
        """See :meth:`Penalty.decomposes_every`."""
        return self.refresh

    def at(self, step: int) -> float:
        """Return the weight, the same in all steps."""
        return self.weight

    def of(self, matrix: Tensor, rank: int, energy: float, step: int, vectors: Tensor | None) -> Penalized:
        """See :meth:`Penalty.of`."""
        from eckart.maths.rank_penalty import leading_vectors, tail  # who loads a model needs no solver

        if vectors is None or step % self.refresh == 0:
            exact = matrix.to(moment_device(matrix.device), torch.float64)
            vectors = leading_vectors(exact, rank).to(matrix)
        value, gradient = tail(matrix, vectors)
        return Penalized(value / energy, gradient / energy, vectors)


class StableRank(Penalty):
    """The stable rank ``||W L||_F^2 / s_1(W L)^2``, whatever the rank that is wanted (Prehab, arXiv 2512.01980).

    Attributes:
        first_weight: of the mean over a block's linears in the first step, as published.
        weight: from step ``rise`` on, as published; between them it rises geometrically.
        rise: in how many steps it rises, as published; that these are steps of the optimiser is our guess.
        iterations: of the power iteration for the first singular vectors, as published.
    """

    name: Literal["stable-rank"] = "stable-rank"

    first_weight: float = Field(1e-4, gt=0.0)
    weight: float = Field(10.0, gt=0.0)
    rise: int = Field(10, ge=0)
    iterations: int = Field(50, ge=1)

    def at(self, step: int) -> float:
        """Return ``first_weight (weight / first_weight)^(step / rise)``, and at last the weight."""
        if step >= self.rise:
            return self.weight
        return self.first_weight * math.pow(self.weight / self.first_weight, step / self.rise)

    def of(self, matrix: Tensor, rank: int, energy: float, step: int, vectors: Tensor | None) -> Penalized:
        """See :meth:`Penalty.of`."""
        from eckart.maths.rank_penalty import leading_right, stable_rank

        right = leading_right(matrix, self.iterations, vectors)
        value, gradient = stable_rank(matrix, right)
        return Penalized(value, gradient, right)


AnyPenalty = Tail | StableRank
