"""Block preparation: train a dense block towards weights that lose less at their ranks, and do the same.

Low-Rank Prehab (arXiv 2512.01980) fine-tunes a dense model before it is factored, with its task loss and a penalty that
draws weights to low rank. Here it is done block by block, for ranks that are known. With a block's input x in the
original model and what it gives there, y = B(x), the weights of the linears that will be factored are trained to

    minimise   ||B~(x) - y||^2 / ||y - x||^2 + weight * mean over linears of the penalty of M = C^T W L,

with ``L L^T`` the second moment of the linear's inputs, as the objective has it, and C the root of its output metric if
it has one. Norms, biases and all other linears stay as they are. The equation then has the prepared weight in the place
of W, also in its target T, and the inputs that it had before. Errors in the records count from the original weights.

The penalties are that of the paper (:class:`~eckart.methods.preparation.penalty.StableRank`), and the tail at the rank
that is wanted (:class:`~eckart.methods.preparation.penalty.Tail`), which is ours. So is the guard: what decides which
epoch's weights are kept, the original ones included, is the error of the block's output on held-out sequences with the
weights cut to their ranks, as the input-aware objective would. So the prepared weights are only taken if they lose less
than the original ones there. What rounding to few bits and other objectives make of them is not in that comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field

from eckart.blocks.passes import BlockPass
from eckart.methods.choice import expand_name
from eckart.methods.preparation.base import Preparation
from eckart.methods.preparation.penalty import AnyPenalty, Tail
from eckart.methods.preparation.record import PreparationRecord
from eckart.methods.refinement.activations import checkpointed
from eckart.methods.refinement.block_training import Sequences
from eckart.methods.training import TrainingConfig, TrainingRun, train

if TYPE_CHECKING:
    from eckart.methods.preparation.weights import WeightToPrepare


class BlockPreparation(TrainingConfig, Preparation):
    """AdamW on the weights of a dense block that will be factored; the defaults are ours.

    Attributes:
        epochs: passes over the training sequences, at most; 0 prepares nothing.
        batch: sequences in an optimiser step.
        learning_rate: at its highest; of each weight a share of the root mean square of its numbers (``relative``).
        weight_decay: of AdamW, towards the original weights.
        held_out: share of the sequences that decide which weights are kept; there is no preparation without some.
        penalty: what draws the whitened weights to low rank.
        coordinates: in which steps are taken: the ``weights``, or the ``white`` ones ``W L`` as published.
    """

    what: ClassVar[str] = "Block preparation"
    place: ClassVar[str] = "preparation"

    name: Literal["block"] = "block"
    epochs: int = Field(20, ge=0)
    batch: int = Field(4, ge=1)
    learning_rate: float = Field(0.02, gt=0)
    relative: bool = True
    weight_decay: float = Field(0.0, ge=0.0)
    held_out: float = Field(0.125, gt=0, lt=1)
    penalty: Annotated[AnyPenalty, Discriminator("name"), BeforeValidator(expand_name)] = Field(default_factory=Tail)
    coordinates: Literal["weights", "white"] = "weights"

    @property
    def training(self) -> BlockPreparation | None:
        """How blocks are trained, and what trains them; None if they are not."""
        return self if self.epochs else None

    def prepare(
        self,
        run: BlockPass,
        path: str,
        weights: Sequence[WeightToPrepare],
        sequences: Sequences,
        training: TrainingRun,
    ) -> PreparationRecord:
        """Train weights of a dense block in place; all else of it, and weights that gain nothing, stay as they came.

        Args:
            run: the block, onloaded, and how the original model calls it.
            path: its name, for the record.
            weights: those that are trained.
            sequences: inputs and outputs in the original model.
            training: seed, dtype and what hears of it.
        """
        # Imported when a model is compressed: who loads one needs no solver.
        from eckart.methods.preparation.block_training import PreparationTraining

        white = self.coordinates == "white"
        trainee = PreparationTraining(self, self.penalty, run, weights, sequences, training.compute, white=white)
        with checkpointed(run.module) if training.recompute else nullcontext():
            record = train(self, trainee, len(sequences), training)
        trainee.finish()
        return PreparationRecord(block=path, tails=trainee.tails(), **dict(record))
