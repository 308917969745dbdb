"""The output metric: which errors of a linear's output weigh how much, measured by gradients of the model's loss."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from eckart.errors import EckartError
from eckart.maths.labels import LabelSource
from eckart.maths.token_clipping import clip_lengths, trimmed
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
        clip: smallest and largest length of a token's gradient, in mean lengths of the gradients of its sequence, into
            which it is brought before the second moment is taken; None for none. KFAC-SVD (arXiv 2610.32878) takes
            0.1 and 10. Rows that a router hands an expert are taken for one sequence.
        trim: share of a sequence's tokens at either end whose gradients are left out, also of the mean length.
            KFAC-SVD takes 0.125. Of what a router hands an expert none are.
    """

    name: Literal["fisher"] = "fisher"

    labels: Literal["sampled", "next"] = "sampled"
    top_k: int | None = Field(None, ge=2)
    samples: int | None = Field(None, ge=1)
    shrinkage: float = Field(0.01, gt=0.0)
    token_weights: Literal["equal", "gradient"] = "equal"
    clip: tuple[float, float] | None = None
    trim: float = Field(0.0, ge=0.0, lt=0.5)

    @model_validator(mode="after")
    def _range_in_order(self) -> Self:
        if self.clip is not None and (not 0 <= self.clip[0] <= self.clip[1] or self.clip[1] == 0):
            raise ValueError(
                f"clip says the smallest and the largest length of a gradient, in mean lengths; found {self.clip}. "
                "Use two numbers from 0, the smaller one first, such as clip=[0.1,10]"
            )
        return self

    def rows(self, gradients: Tensor, sequences: int | None) -> Tensor:
        """Return the gradients whose second moment is taken, (tokens, m), of the size of all that there were.

        Args:
            gradients: (tokens, m), of several sequences of one length one after another.
            sequences: how many there are; None where they are tokens of no known sequence.
        """
        if self.clip is None and not self.trim:
            return gradients
        rows = gradients.reshape(sequences or 1, -1, gradients.shape[-1])
        if self.trim and sequences is not None:
            rows = trimmed(rows, self.trim)
            rows = rows * (len(gradients) / max(rows.shape[0] * rows.shape[1], 1)) ** 0.5
        return (rows if self.clip is None else clip_lengths(rows, *self.clip)).flatten(0, 1)

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
