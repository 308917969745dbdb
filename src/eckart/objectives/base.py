"""What every objective answers: which stream it looks at, and its moments ``S`` and ``P`` for a linear."""

from __future__ import annotations

from abc import abstractmethod
from enum import Enum, auto
from typing import Annotated, ClassVar

import torch
from pydantic import BeforeValidator, Discriminator, Field
from torch import Tensor

from eckart.choice import Choice, expand_name
from eckart.lowrank import Solution, Whitening, solve, whiten
from eckart.metric import AnyMetric, Fisher, NoMetric
from eckart.moments import Moments


class Streams(Enum):
    """The hidden states that an objective observes."""

    NONE = auto()
    ORIGINAL = auto()
    COMPRESSED = auto()
    BOTH = auto()


class Objective(Choice):
    """A choice of inputs Z and target outputs T in ``min || T - W' Z ||^2``."""

    streams: ClassVar[Streams]
    observes_outputs: ClassVar[bool] = False

    @property
    def needs_data(self) -> bool:
        """Whether calibration tokens are looked at."""
        return self.streams is not Streams.NONE

    @property
    def output_metric(self) -> Fisher | None:
        """The metric in which errors of an output are measured; None if all weigh the same."""
        return None

    @abstractmethod
    def whitening(self, moments: Moments | None, in_features: int, device: torch.device) -> Whitening:
        """Return the root of ``S``, shared by the linears of a group.

        Args:
            moments: of the group's inputs; None if the objective observes no stream.
            in_features: n.
            device: where the result is needed.
        """

    def cross_moment(self, weight: Tensor, moments: Moments, whitening: Whitening, rank: int) -> Tensor | None:
        """Return ``P = T Z^T``, (m, n) float64, for one linear; None stands for ``W S``.

        Args:
            weight: ``W``, (m, n) float64.
            moments: of the group's inputs.
            whitening: what :meth:`whitening` returned for them.
            rank: the rank that the linear will get.
        """
        return None

    def solution(
        self,
        weight: Tensor,
        moments: Moments | None,
        whitening: Whitening,
        rank: int,
        *,
        metric: Whitening | None = None,
        projectors: Tensor | None = None,
    ) -> Solution:
        """Return the low-rank approximations of one linear.

        Args:
            weight: ``W``, (m, n) float64.
            moments: of the group's inputs; None if the objective observes no stream.
            whitening: what :meth:`whitening` returned for them.
            rank: the rank that the linear will get.
            metric: the root of the output metric; None for the identity.
            projectors: sum over sequences of the projectors on their leading output directions, (m, m), if the
                objective observes outputs.
        """
        cross_moment = None if moments is None else self.cross_moment(weight, moments, whitening, rank)
        return solve(whitening, cross_moment, weight, metric)


class DataAwareObjective(Objective):
    """An objective that looks at activations; it can be held back towards the original weight.

    Shrinkage adds ``t || W' - W ||^2`` to the loss: ``S + t I`` and ``P + t W``, where t is ``shrinkage`` times the
    mean of the diagonal of S. It matters where tokens are few; the published recipes have none.

    Attributes:
        shrinkage: t, as a share of the mean diagonal.
        metric: in which errors of the outputs are measured.
    """

    shrinkage: float = Field(0.0, ge=0.0)
    metric: Annotated[AnyMetric, Discriminator("name"), BeforeValidator(expand_name)] = Field(default_factory=NoMetric)

    @property
    def output_metric(self) -> Fisher | None:
        """The metric, if it is not that of equal weights."""
        return self.metric if isinstance(self.metric, Fisher) else None

    def whitening(self, moments: Moments | None, in_features: int, device: torch.device) -> Whitening:
        """Return the root of ``S + t I``."""
        assert moments is not None
        return whiten(add_to_diagonal(moments.second, self.shrinkage))


def add_to_diagonal(second_moment: Tensor, share: float) -> Tensor:
    """Return the (n, n) matrix plus ``share`` times the mean of its diagonal times the identity."""
    if share == 0:
        return second_moment
    size = len(second_moment)
    amount = share * second_moment.diagonal().mean()
    return second_moment + amount * torch.eye(size, dtype=second_moment.dtype, device=second_moment.device)
