"""What the objectives that observe both models' inputs have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from eckart.maths.moments import Moments, ResidualMoments
from eckart.maths.whitening import Whitening
from eckart.methods.objectives.base import DataAwareObjective, InputSource, TargetMoments


class PairedObjective(DataAwareObjective):
    """Z is X', the input in the compressed model, and T is ``W (b X + (1 - b) X') + a (r - r')``.

    The last term is there for linears whose output is added to the residual stream, r in the original model and r' in
    the compressed one: with a = 1 and b = 1 the sum is drawn to what it is in the original model.

    Attributes:
        residual_anchoring: a, from 0 to 1.
    """

    input_source: ClassVar[InputSource] = InputSource.BOTH

    residual_anchoring: float = Field(0.0, ge=0.0, le=1.0)

    @property
    def residual_share(self) -> float:
        """The share of the difference of the residual streams that targets carry."""
        return self.residual_anchoring

    def target(
        self,
        weight: Tensor,
        moments: Moments,
        whitening: Whitening,
        rank: int,
        residual: ResidualMoments | None = None,
    ) -> TargetMoments:
        """Return ``P = W (S + t I) + a (r - r') X'^T + b W (X - X') X'^T``; see :meth:`Objective.target`."""
        share = self.residual_anchoring
        start = self.unblended(weight, moments, whitening)
        if residual is not None:
            start = start + share * self.about_means(residual.cross, residual.sum, moments)
        direction = self._direction(weight, moments)
        blend = self.blend(start, direction, whitening, rank)
        mean = None
        if self.affine:
            mean = weight @ (moments.mean + blend * moments.shift_sum / max(moments.tokens, 1))
            if residual is not None:
                mean = mean + share * residual.sum / max(moments.tokens, 1)
        return TargetMoments(start + blend * direction, mean)

    def unresolved(self, weight: Tensor, moments: Moments, whitening: Whitening) -> float:
        """Return what ``W (X - X')`` may have there, which is all of it that b can add; see :class:`Objective`."""
        if whitening.dropped is None:
            return 0.0
        return float((self._direction(weight, moments) @ whitening.dropped).square().sum())

    def _direction(self, weight: Tensor, moments: Moments) -> Tensor:
        """Return ``W (X - X') X'^T``, (m, n), about the means if there is a bias."""
        assert moments.shift is not None
        direction = weight @ moments.shift
        return self.about_means(direction, weight @ moments.shift_sum, moments) if self.affine else direction

    def unblended(self, weight: Tensor, moments: Moments, whitening: Whitening) -> Tensor:
        """Return ``W (S + t I)``, (m, n), for the ``S + t I`` that ``whitening`` is the root of."""
        return (weight @ whitening.root) @ whitening.root.T

    @abstractmethod
    def blend(self, start: Tensor, direction: Tensor, whitening: Whitening, rank: int) -> float:
        """Return b, in [0, 1].

        Args:
            start: P for b = 0, (m, n) float64.
            direction: how P changes with b, (m, n) float64.
            whitening: the root of ``S + t I``.
            rank: the rank that the linear will get.
        """
