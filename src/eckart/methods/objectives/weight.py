"""The weight itself: ``min || W - W' ||^2`` (Eckart and Young, 1936). No data."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from eckart.maths.moments import Moments
from eckart.maths.whitening import Whitening
from eckart.methods.objectives.base import InputSource, Objective


class Weight(Objective):
    """Z is the identity and T is W: plain truncated SVD."""

    name: Literal["weight"] = "weight"
    input_source: ClassVar[InputSource] = InputSource.NONE

    def whitening(self, moments: Moments | None, in_features: int, device: torch.device) -> Whitening:
        """Return the root of the identity."""
        return Whitening.identity(in_features, device)
