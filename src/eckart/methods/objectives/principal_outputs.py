"""Principal outputs: Dobi-SVD's weight update (arXiv 2502.02723, section 3.2)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from eckart.maths.lowrank import Solution, Solve, solve
from eckart.maths.moments import Moments, ResidualMoments
from eckart.maths.soft_truncation import leading_subspace
from eckart.maths.whitening import OutputRoot, Whitening
from eckart.methods.objectives.base import DataAwareObjective, InputSource


class PrincipalOutputs(DataAwareObjective):
    """``W' = Q Q^T W``, Q the principal subspace of the leading output directions of all calibration sequences.

    The outputs of a sequence, (tokens, m), have leading right singular vectors V, as many as the rank. Q are the
    principal components of those of all sequences, each direction counting the same however large the outputs along it
    are. The paper finds Q by an incremental PCA, an approximation; the sum of ``V V^T`` adds over sequences and has no
    need of one. What the published code does beyond that is said in
    :func:`eckart.maths.soft_truncation.leading_subspace`.
    """

    name: Literal["principal-outputs"] = "principal-outputs"
    input_source: ClassVar[InputSource] = InputSource.ORIGINAL
    observes_outputs: ClassVar[bool] = True

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
        """Return the projection on the principal outputs; see :meth:`Objective.solution`."""
        assert moments is not None
        assert projectors is not None
        basis = leading_subspace(projectors.to(weight.device), rank).to(weight)
        mean = self.target(weight, moments, whitening, rank).mean
        return Solution(basis, basis, weight.new_ones(rank), weight, mean)
