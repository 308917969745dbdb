"""Block refinement: train a compressed block to give what the original one gives (AA-SVD, arXiv 2604.02119, sec. 3.3).

With the block's input x' from the compressed stream and its target y = B(x) from the original stream, every parameter
of the compressed block B' (factors, norms, biases) is trained to

    minimise   mean over all elements of (B'(x') - y)^2.

Beyond the paper: weights are trained in float32, whatever dtype they are stored in; a share of the calibration
sequences is held out of the training, and decides when to stop and which state is kept, the one before the training
included; sequences are shuffled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import ClassVar, Literal

import torch
from torch import nn

from eckart.refinement.activations import checkpointed
from eckart.refinement.base import Refinement
from eckart.refinement.block_training import BlockTraining, Sequences
from eckart.refinement.record import RefinementRecord
from eckart.statistics import Calls
from eckart.training import EpochRecord, TrainingPlan, train


class BlockRefinement(TrainingPlan, Refinement):
    """AdamW on every parameter of a block; the defaults are those of the paper where it has the number."""

    what: ClassVar[str] = "Block refinement"
    place: ClassVar[str] = "refinement"
    needs_data: ClassVar[bool] = True

    name: Literal["block"] = "block"

    def refine(
        self,
        block: nn.Module,
        path: str,
        calls: Calls,
        sequences: Sequences,
        stored: Mapping[str, torch.dtype],
        compute: torch.dtype,
        seed: int,
        checkpoint_activations: bool = False,
        on_epoch: Callable[[int, EpochRecord], None] = lambda number, record: None,
    ) -> RefinementRecord:
        """Train ``block`` in place; its parameters end as numbers of their stored dtypes.

        Args:
            block: compressed, on its device.
            path: its name, for the record.
            calls: how the model calls it, by (batch, length).
            sequences: inputs and targets.
            stored: dtype by parameter name, that each is saved in.
            compute: dtype of matrix products; weights and sums are float32 throughout.
            seed: of the order of the sequences.
            checkpoint_activations: compute what the children of the block hold twice, instead of holding it.
            on_epoch: is called with the number of each finished epoch, from 1, and its losses.
        """
        training = BlockTraining(self, block, calls, sequences, stored, compute)
        with checkpointed(block) if checkpoint_activations else nullcontext():
            record = train(self, training, len(sequences), seed, on_epoch)
        training.finish()
        return RefinementRecord(block=path, **dict(record))
