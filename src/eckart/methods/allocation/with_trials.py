"""Allocations that run the model with linears truncated, and look at what that does to its predictions."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.methods.allocation.base import Allocation
from eckart.methods.sensitivity.cost import StepSeconds
from eckart.methods.sensitivity.request import Request


class WithTrials(Allocation):
    """It measures on a few calibration samples.

    Attributes:
        trial_samples: calibration samples that are run.
        trial_length: tokens of each that are looked at; None for all.
    """

    trial_samples: int = Field(32, ge=1)
    trial_length: int | None = Field(None, ge=2)

    @property
    def truncates(self) -> bool:
        """See :attr:`Allocation.truncates`."""
        return True

    def ask(self, request: Request) -> Request:
        """Keep the bases if linears are truncated in them."""
        request = super().ask(request)
        return replace(request, keep_bases=request.keep_bases or self.truncates)

    def trial_sample(self, model: BlockwiseModel) -> BlockwiseModel:
        """Return the model with the samples of trials alone."""
        return model.cropped(self.trial_samples, self.trial_length)

    def run_seconds(self, steps: StepSeconds) -> float:
        """Return the seconds of one run of the whole model."""
        return self._batches(steps) * (steps.block * steps.blocks + steps.head)

    def trial_seconds(self, steps: StepSeconds) -> float:
        """Return the seconds of one trial of each linear, each from its block to the end."""
        trials = len(steps.shapes) * steps.blocks
        return trials * self._batches(steps) * (steps.block * steps.blocks / 2 + steps.head)

    def _batches(self, steps: StepSeconds) -> float:
        samples, length = steps.crop(self.trial_samples, self.trial_length)
        return samples * length / steps.batch_tokens
