"""What every objective answers: whose inputs it looks at, and its moments ``S`` and ``P`` for a linear."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Annotated, ClassVar

import torch
from pydantic import BeforeValidator, Discriminator, Field
from torch import Tensor

from eckart.maths.lowrank import Solution, Solve, solve
from eckart.maths.moments import Moments, ResidualMoments
from eckart.maths.whitening import OutputRoot, Whitening, whiten
from eckart.methods.choice import Choice, expand_name
from eckart.methods.metric import AnyMetric, Fisher, NoMetric


class InputSource(Enum):
    """The hidden states that an objective observes."""

    NONE = auto()
    ORIGINAL = auto()
    COMPRESSED = auto()
    BOTH = auto()


@dataclass(frozen=True)
class TargetMoments:
    """What an objective says of the target outputs T of one linear.

    Attributes:
        cross: ``P = T Z^T``, (m, n) float64, about the means if the layer gets a bias; None stands for ``W S``.
        mean: mean of T over the tokens, (m,) float64, if the layer gets a bias; else None.
    """

    cross: Tensor | None = None
    mean: Tensor | None = None


class Objective(Choice):
    """A choice of inputs Z and target outputs T in ``min || T - W' Z ||^2``."""

    input_source: ClassVar[InputSource]
    observes_outputs: ClassVar[bool] = False
    takes_token_weights: ClassVar[bool] = False  # whether its equation can be solved with tokens weighed by gradients

    @property
    def needs_data(self) -> bool:
        """Whether calibration tokens are looked at."""
        return self.input_source is not InputSource.NONE

    @property
    def output_metric(self) -> Fisher | None:
        """The metric in which errors of an output are measured; None if all weigh the same."""
        return None

    @property
    def adds_bias(self) -> bool:
        """Whether a linear that is factored gets a bias, if it has none."""
        return False

    @property
    def follows_rank(self) -> bool:
        """Whether what it aims at depends on the rank that a linear gets."""
        return False

    @property
    def residual_share(self) -> float:
        """The share of the difference of the residual streams that targets carry."""
        return 0.0

    @abstractmethod
    def whitening(self, moments: Moments | None, in_features: int, device: torch.device) -> Whitening:
        """Return the root of ``S``, shared by the linears of a group.

        Args:
            moments: of the group's inputs; None if the objective looks at no inputs.
            in_features: n.
            device: where the result is needed.
        """

    def target(
        self,
        weight: Tensor,
        moments: Moments,
        whitening: Whitening,
        rank: int,
        residual: ResidualMoments | None = None,
    ) -> TargetMoments:
        """Return what there is to know of the target outputs of one linear.

        Args:
            weight: ``W``, (m, n) float64.
            moments: of the group's inputs.
            whitening: what :meth:`whitening` returned for them.
            rank: the rank that the linear will get.
            residual: of the residual stream that its output is added to, if the objective looks at it.
        """
        return TargetMoments()

    def unresolved(self, weight: Tensor, moments: Moments, whitening: Whitening) -> float:
        """Return how much of ``||T||^2`` may lie in directions that ``whitening`` dropped as rounding.

        For ``T = W Z`` that is as little as their eigenvalues; other targets can lose there what they are about.

        Args:
            weight: ``W``, (m, n) float64.
            moments: of the group's inputs.
            whitening: what :meth:`whitening` returned for them.
        """
        return 0.0

    def solution(
        self,
        weight: Tensor,
        moments: Moments | None,
        whitening: Whitening,
        rank: int,
        *,
        metric: OutputRoot | None = None,
        projectors: Tensor | None = None,
        residual: ResidualMoments | None = None,
        solver: Solve = solve,
    ) -> Solution:
        """Return the low-rank approximations of one linear.

        Args:
            weight: ``W``, (m, n) float64.
            moments: of the group's inputs; None if the objective looks at no inputs.
            whitening: what :meth:`whitening` returned for them.
            rank: the rank that the linear will get.
            metric: the root of the output metric; None for the identity.
            projectors: sum over sequences of the projectors on their leading output directions, (m, m), if the
                objective observes outputs.
            residual: of the residual stream that its output is added to, if the objective looks at it.
            solver: solves the equation.
        """
        if moments is None:
            return solver(whitening, None, weight, metric, rank)
        target = self.target(weight, moments, whitening, rank, residual)
        return replace(solver(whitening, target.cross, weight, metric, rank), target_mean=target.mean)


class DataAwareObjective(Objective):
    """An objective that looks at activations; it can be held back towards the original weight.

    Shrinkage adds ``t || W' - W ||^2`` to the loss: ``S + t I`` and ``P + t W``, where t is ``shrinkage`` times the
    mean of the diagonal of S. It matters where tokens are few; the published recipes have none.

    Attributes:
        shrinkage: t, as a share of the mean diagonal.
        affine: whether factored linears get a bias that makes up for the means: ``min || T - (W' Z + c 1^T) ||^2``.
        metric: in which errors of the outputs are measured.
    """

    shrinkage: float = Field(0.0, ge=0.0)
    affine: bool = False
    metric: Annotated[AnyMetric, Discriminator("name"), BeforeValidator(expand_name)] = Field(default_factory=NoMetric)

    @property
    def output_metric(self) -> Fisher | None:
        """The metric, if it is not that of equal weights."""
        return self.metric if isinstance(self.metric, Fisher) else None

    @property
    def adds_bias(self) -> bool:
        """Whether it is affine."""
        return self.affine

    def whitening(self, moments: Moments | None, in_features: int, device: torch.device) -> Whitening:
        """Return the root of ``S + t I``."""
        assert moments is not None
        return self.root(moments, self.shrinkage)

    def target(
        self,
        weight: Tensor,
        moments: Moments,
        whitening: Whitening,
        rank: int,
        residual: ResidualMoments | None = None,
    ) -> TargetMoments:
        """Return that T is ``W Z``; see :meth:`Objective.target`."""
        return TargetMoments(mean=weight @ moments.mean if self.affine else None)

    def root(self, moments: Moments, share: float) -> Whitening:
        """Return the root of S, about the mean if there is a bias, plus ``share`` of its mean diagonal."""
        if not self.affine:
            return whiten(add_to_diagonal(moments.second_moment, share), floor=moments.floor)
        removed = moments.mean * moments.tokens**0.5
        centred = moments.second_moment - torch.outer(removed, removed)
        return whiten(add_to_diagonal(centred, share), removed, moments.floor)

    def about_means(self, cross_moment: Tensor, total: Tensor, moments: Moments) -> Tensor:
        """Return ``A Z^T``, (k, n), less what the means of A and Z make of it, if there is a bias.

        Args:
            cross_moment: ``A Z^T``.
            total: the sum of A over the tokens, (k,).
            moments: of Z.
        """
        return cross_moment - torch.outer(total, moments.mean) if self.affine else cross_moment


def add_to_diagonal(second_moment: Tensor, share: float) -> Tensor:
    """Return the (n, n) matrix plus ``share`` times the mean of its diagonal times the identity."""
    if share == 0:
        return second_moment
    size = len(second_moment)
    amount = share * second_moment.diagonal().mean()
    return second_moment + amount * torch.eye(size, dtype=second_moment.dtype, device=second_moment.device)
