"""What a measurement finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from eckart.maths.moments import Moments
from eckart.methods.sensitivity.layer_statistics import LayerStatistics


@dataclass(frozen=True)
class Measurements:
    """What was measured.

    Attributes:
        linears: the statistics of each, in order of execution.
        metrics: the second moment (m, m) of each linear's output gradients, float32, by path; empty if the objective
            has no output metric.
        solutions: the low-rank approximations of each linear, by path, if they were asked for: basis and dual, (m, p)
            float32.
        whitenings: what the objective makes of the inputs of each linear, by path, if it was asked for: the root (n, k)
            of their second moment and its inverse, float64.
        block_metrics: the second moment (d, d) of the gradients behind each block, float32, by its path; empty if no
            metric was asked for.
        weights: weights (m, n) that are to be factored in the place of a linear's own, by path; of an allocation that
            moves weights while it measures.
        means: of those inputs, (n,) float64, by path, if they were asked for and the objective looks at data.
        moments: of the inputs of each group, by the path of its first linear, if they were asked for.
    """

    linears: tuple[LayerStatistics, ...]
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    solutions: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    whitenings: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    means: Mapping[str, Tensor] = field(default_factory=dict)
    block_metrics: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    moments: Mapping[str, Moments] = field(default_factory=dict)

    def statistics(self, path: str) -> LayerStatistics:
        """Return the statistics of a linear."""
        return next(linear for linear in self.linears if linear.path == path)

    def components(self, path: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return basis and dual (m, p) of a linear, and its singular values (p,), if bases were kept."""
        linear = self.statistics(path)
        assert linear.energy is not None
        return *self.solutions[path], (linear.energy * linear.tokens).sqrt()
