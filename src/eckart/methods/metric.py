"""The output metric: which errors of a linear's output weigh how much, measured by gradients of the model's loss."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from eckart.errors import EckartError
from eckart.maths.labels import LabelSource
from eckart.maths.whitening import BlockRoot, OutputRoot, Whitening, triangular_root
from eckart.methods.choice import Choice


class NoMetric(Choice):
    """All errors of an output weigh the same."""

    name: Literal["none"] = "none"


class Fisher(Choice):
    """The second moment of the loss's gradients at a linear's output, (m, m): the curvature of the loss there.

    With labels sampled from the model itself it is, in expectation, the curvature of the KL divergence from the
    original model's predictions (the Fisher information), which depends on no text's next token.

    Attributes:
        labels: ``sampled`` from the model's own predictions, or the text's ``next`` tokens (the empirical Fisher).
        top_k: sampled labels are among this many of the most likely; None for all. IO-SVD (arXiv 2605.15626) takes 5.
        samples: calibration samples whose gradients are taken; None for all.
        shrinkage: share of the mean diagonal that is added to the diagonal: errors that no gradient saw cost a little.
        token_weights: how much a token's inputs count in the equation of a linear: ``equal``, or by the size of the
            ``gradient`` d at its output, ``S = sum |d| x x^T / sum |d|``. The curvature of the loss at a weight is the
            mean of ``x x^T (x) d d^T``, which is the product of two means only if inputs and gradients do not depend on
            one another. They do: what is large on tokens that hardly matter should not decide. A step from K-FAC
            towards the nearest Kronecker product (GFWSVD, arXiv 2505.17974).
    """

    name: Literal["fisher"] = "fisher"

    labels: Literal["sampled", "next"] = "sampled"
    top_k: int | None = Field(None, ge=2)
    samples: int | None = Field(None, ge=1)
    shrinkage: float = Field(0.01, gt=0.0)
    token_weights: Literal["equal", "gradient"] = "equal"

    @property
    def weighs_tokens(self) -> bool:
        """Whether tokens count differently."""
        return self.token_weights == "gradient"

    @property
    def label_source(self) -> LabelSource:
        """Where the labels of the loss come from whose gradients are taken."""
        return LabelSource(self.labels == "sampled", self.top_k)

    def root(self, second_moment: Tensor) -> OutputRoot:
        """Return the root of the metric, of full rank.

        Args:
            second_moment: of the gradients, (m, m) float64, or its blocks along the diagonal, (number, m / number,
                m / number), if it is zero elsewhere.

        Raises:
            EckartError: the shrinkage is too small to make the moment regular.
        """
        mean = second_moment.diagonal(dim1=-2, dim2=-1).mean()
        eye = torch.eye(second_moment.shape[-1], dtype=second_moment.dtype, device=second_moment.device)
        if mean < torch.finfo(torch.float32).tiny:  # no gradient reaches the linear: no error matters more than another
            whole = eye.expand_as(second_moment)
            return Whitening(whole, whole) if whole.ndim == 2 else BlockRoot(whole, whole)
        regular = second_moment + self.shrinkage * mean * eye
        if regular.ndim == 2:
            return self._regular_root(regular)
        roots = [self._regular_root(block) for block in regular]
        return BlockRoot(torch.stack([r.root for r in roots]), torch.stack([r.inverse for r in roots]))

    def _regular_root(self, regular: Tensor) -> Whitening:
        root = triangular_root(regular)
        if root is None:
            raise EckartError(
                f"The output metric is singular with a shrinkage of {self.shrinkage:g}. "
                f"Use a larger one: --set objective.metric.shrinkage={max(0.01, 10 * self.shrinkage):g}"
            )
        return root


AnyMetric = NoMetric | Fisher
