"""Activation-scaled: ASVD's ``min || (W - W') diag(s) ||^2`` (arXiv 2312.05821, section 3.2)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from eckart.maths.moments import Moments
from eckart.maths.whitening import Whitening
from eckart.methods.objectives.base import DataAwareObjective, InputSource

SMALLEST_SCALE = 1e-6  # as published: an input that is always zero still counts a little


class ActivationScaled(DataAwareObjective):
    """Z is diagonal: input feature j weighs ``s_j = (mean |x_j|)^alpha``, x the input in the original model.

    Attributes:
        alpha: exponent, 0.5 in the paper.
    """

    name: Literal["activation-scaled"] = "activation-scaled"
    input_source: ClassVar[InputSource] = InputSource.ORIGINAL

    alpha: float = Field(0.5, ge=0.0)

    def whitening(self, moments: Moments | None, in_features: int, device: torch.device) -> Whitening:
        """Return the root ``diag(s)``, with the shrinkage added to its square."""
        assert moments is not None
        mean = moments.absolute.to(device) / max(moments.tokens, 1)
        scale: Tensor = mean**self.alpha + SMALLEST_SCALE
        scale = (scale.square() + self.shrinkage * scale.square().mean()).sqrt()
        return Whitening(scale.diag(), (1 / scale).diag())
