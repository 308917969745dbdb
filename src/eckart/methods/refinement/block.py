"""Block refinement: train a compressed block to give what the original one gives (AA-SVD, arXiv 2604.02119, sec. 3.3).

With the block's input x' in the compressed model and its target y = B(x) in the original one, every parameter
of the compressed block B' (factors, norms, biases) is trained to

    minimise   mean over all elements of (B'(x') - y)^2.

With a metric G = C C^T, the second moment of the loss's gradients behind the block, it is the mean of
``(C^T (B'(x') - y))^2``: what the rest of the model makes of an error decides, not how large it is.

Beyond the paper, weights are trained in float32, whatever dtype they are stored in. Three guards of ours are on where
the refinement is chosen by its name, and in Eckart's own recipes: a share of the calibration sequences is held out of
the training, and decides when to stop (``patience``) and which state is kept, the one before the training included; and
sequences are shuffled. The recipes that are named after the paper are without them (``held_out=0 shuffle=false``): they
train on all sequences, in their order, to the last of the epochs. A training that diverges ends with its last finite
state in either case.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Discriminator, Field
from torch import Tensor

from eckart.blocks.passes import BlockPass
from eckart.methods.choice import expand_name
from eckart.methods.metric import AnyMetric, Fisher, NoMetric
from eckart.methods.refinement.activations import checkpointed
from eckart.methods.refinement.base import Refinement
from eckart.methods.refinement.block_training import BlockTraining, Sequences
from eckart.methods.refinement.record import RefinementRecord
from eckart.methods.training import TrainingConfig, TrainingRun, train


class BlockRefinement(TrainingConfig, Refinement):
    """AdamW on every parameter of a block; the defaults are those of the paper where it has the number.

    That is, but for the guards (``held_out``, ``patience``, ``shuffle``), of which it has none.

    Attributes:
        metric: in which errors of the block's output are measured; how gradients are measured for it is the objective's
            or the allocation's choice, if they have one.
    """

    what: ClassVar[str] = "Block refinement"
    place: ClassVar[str] = "refinement"
    needs_data: ClassVar[bool] = True

    name: Literal["block"] = "block"
    metric: Annotated[AnyMetric, Discriminator("name"), BeforeValidator(expand_name)] = Field(default_factory=NoMetric)

    @property
    def output_metric(self) -> Fisher | None:
        """The metric, if it is not that of equal weights."""
        return self.metric if isinstance(self.metric, Fisher) else None

    @property
    def training(self) -> BlockRefinement:
        """How blocks are trained, and what trains them."""
        return self

    def refine(
        self,
        run: BlockPass,
        path: str,
        sequences: Sequences,
        stored: Mapping[str, torch.dtype],
        training: TrainingRun,
        metric: Tensor | None = None,
    ) -> RefinementRecord:
        """Train a block in place; its parameters end as numbers of their stored dtypes.

        Args:
            run: the block, compressed and onloaded, and how the model calls it.
            path: its name, for the record.
            sequences: inputs and desired outputs.
            stored: dtype by parameter name, that each is saved in.
            training: seed, dtype and what hears of it.
            metric: second moment of the gradients behind the block, (d, d), if it is to be minimised in a metric.
        """
        root = None if metric is None or self.output_metric is None else self.output_metric.root(metric.double()).root
        trainee = BlockTraining(self, run, sequences, stored, training.compute, root)
        with checkpointed(run.module) if training.recompute else nullcontext():
            record = train(self, trainee, len(sequences), training)
        trainee.finish()
        return RefinementRecord(block=path, **dict(record))
