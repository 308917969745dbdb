"""What a layer is made to fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from eckart.maths.lowrank import Solve
from eckart.maths.whitening import FLOAT32_FLOOR, BlockRoot, OutputRoot, Whitening, blockwise, whiten


@dataclass(frozen=True)
class Fit:
    """What a layer is made to fit: ``|| C^T (T - W') R ||^2``, with ``S = R R^T`` and the output metric ``C C^T``.

    Attributes:
        target: T, (m, n) float64, of any rank.
        inputs: S, (n, n) float64, or R and its inverse; each is found of the other when it is asked for.
        metric: C and its inverse, of full rank m; None for the identity.
        constant: gives, for the weight as it is stored, what is added to the bias, (m,) float64; None for nothing.
        solver: solves the equation for what is of low rank; None to solve it exactly.
    """

    target: Tensor
    inputs: Whitening | Tensor
    metric: OutputRoot | None = None
    constant: Callable[[Tensor], Tensor] | None = None
    solver: Solve | None = None

    @cached_property
    def second_moment(self) -> Tensor:
        """S of the inputs, (n, n) float64."""
        return self.inputs if isinstance(self.inputs, Tensor) else self.inputs.second_moment

    @cached_property
    def whitening(self) -> Whitening:
        """R and its inverse."""
        return whiten(self.inputs, floor=FLOAT32_FLOOR) if isinstance(self.inputs, Tensor) else self.inputs

    @property
    def output_moment(self) -> Tensor | None:
        """G of the outputs, (m, m) float64; None for the identity."""
        if isinstance(self.metric, BlockRoot):
            blocks = self.metric.root @ self.metric.root.mT
            count, size = blocks.shape[:2]
            whole = blocks.new_zeros(count, size, count, size)
            for number, block in enumerate(blocks):
                whole[number, :, number] = block
            return whole.flatten(2).flatten(0, 1)
        return None if self.metric is None else self.metric.second_moment

    def loss(self, weight: Tensor) -> float:
        """Return what a weight, (m, n) float64, loses."""
        missing = (self.target - weight) @ self.whitening.root
        return float((missing if self.metric is None else blockwise(self.metric.root.mT, missing)).square().sum())
