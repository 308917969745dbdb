"""What every refinement answers, and the one that does nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from eckart.blocks.passes import BlockPass
from eckart.methods.choice import Choice
from eckart.methods.metric import Fisher
from eckart.methods.refinement.block_training import Sequences
from eckart.methods.refinement.record import RefinementRecord
from eckart.methods.training import TrainingConfig, TrainingRun


class Refinement(Choice):
    """A choice of what is done to a block after its linears were factored."""

    needs_data: ClassVar[bool] = True

    @property
    def output_metric(self) -> Fisher | None:
        """The metric in which errors of a block's output are measured; None if all weigh the same."""
        return None

    @property
    def training(self) -> TrainingConfig | None:
        """How blocks are trained; None if they are not."""
        return None

    def refine(
        self,
        run: BlockPass,
        path: str,
        sequences: Sequences,
        stored: Mapping[str, torch.dtype],
        training: TrainingRun,
        metric: Tensor | None = None,
    ) -> RefinementRecord:
        """Train a block in place; its parameters end as numbers of their stored dtypes. Only if there is a training.

        Args:
            run: the block, compressed and onloaded, and how the model calls it.
            path: its name, for the record.
            sequences: inputs and desired outputs.
            stored: dtype by parameter name, that each is saved in.
            training: seed, dtype and what hears of it.
            metric: second moment of the gradients behind the block, (d, d), if it is to be minimised in a metric.
        """
        raise NotImplementedError(f"{self.name!r} trains nothing")


class NoRefinement(Refinement):
    """Leave the factors as the closed form gave them."""

    name: Literal["none"] = "none"
    needs_data: ClassVar[bool] = False
