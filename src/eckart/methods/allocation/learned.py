"""Learned: Dobi-SVD's trained truncation positions (arXiv 2502.02723, section 3.1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.maths.soft_truncation import soft_truncate
from eckart.maths.stopwatch import random_matrix, seconds_of
from eckart.methods.allocation.base import Allocation, OwnMeasurement, Wanted
from eckart.methods.allocation.rank_budget import RankBudget, Ranks
from eckart.methods.allocation.truncation_points import train_truncation_points
from eckart.methods.sensitivity.cost import BACKWARD, StepSeconds
from eckart.methods.sensitivity.layer_statistics import LayerStatistics
from eckart.methods.sensitivity.measurements import Measurements


class Learned(Allocation):
    """Each linear's outputs are truncated at a position that is trained with the model's loss.

    The outputs of a sequence, (tokens, m), are cut by a soft gate over their singular values. Only the positions are
    trained, by Adam, with a penalty on the distance of the bytes from the budget. The rank is the position as a share
    of min(m, n).

    Attributes:
        epochs: passes over the training samples; 20 in the paper.
        training_samples: calibration samples that are trained on; 256 in the paper.
        training_length: tokens of each that are looked at; None for all. The cost of an SVD grows with its square.
        learning_rate: of Adam, in positions a step, at the start; 5 in the paper.
        final_learning_rate: at the end of a cosine; 4 in the paper.
        penalty: on the distance of the share of bytes from the budget; 200 in the paper.
        sharpness: of the gate; 10 in the paper.
    """

    name: Literal["learned"] = "learned"

    epochs: int = Field(20, ge=1)
    training_samples: int = Field(256, ge=1)
    training_length: int | None = Field(None, ge=2)
    learning_rate: float = Field(5.0, gt=0)
    final_learning_rate: float = Field(4.0, gt=0)
    penalty: float = Field(200.0, ge=0)
    sharpness: float = Field(10.0, gt=0)

    @property
    def own_measurement(self) -> OwnMeasurement:
        """See :attr:`Allocation.own_measurement`."""
        return OwnMeasurement.FOR_EACH_SIZE

    @property
    def truncates(self) -> bool:
        """See :attr:`Allocation.truncates`."""
        return True

    @property
    def truncates_outputs(self) -> bool:
        """See :attr:`Allocation.truncates_outputs`."""
        return True

    def measure(self, model: BlockwiseModel, measured: Measurements, wanted: Wanted) -> Measurements:
        """Train the truncation positions; a linear's is kept as a share of min(m, n)."""
        # Steps are batches one after another, which are small: each process takes all of them itself.
        sample = model.cropped(self.training_samples, self.training_length).whole()
        found = train_truncation_points(sample, self, wanted.budgets, wanted.layout, wanted.progress)
        return replace(measured, linears=tuple(replace(x, own=found[x.path]) for x in measured.linears))

    def own_seconds(self, steps: StepSeconds) -> float:
        """Return the seconds of the training: a soft truncation of each linear's outputs, forwards and backwards."""
        samples, length = steps.crop(self.training_samples, self.training_length)
        truncating = sum(_soft_truncation_seconds(length, rows, steps.device) for rows, _ in steps.shapes)
        share = length / steps.batch_tokens
        of_sequence = steps.blocks * (2 * truncating + (1 + BACKWARD) * steps.block * share)
        return self.epochs * samples * (of_sequence + BACKWARD * steps.head * share)

    def choose(self, problem: RankBudget) -> Ranks:
        """Return the rank at each position."""
        return {linear.path: _rank(linear) for linear in problem.linears}


def _rank(linear: LayerStatistics) -> int:
    return max(1, round(float(linear.own) * min(linear.shape)))


def _soft_truncation_seconds(tokens: int, features: int, device: torch.device) -> float:
    outputs = random_matrix(tokens, features).to(device)
    return seconds_of(lambda: soft_truncate(outputs, torch.tensor(1.0, device=device)), device)
