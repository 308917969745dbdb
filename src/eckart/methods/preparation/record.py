"""What a preparation did, as data."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from eckart.files.field_types import Label
from eckart.methods.training.record import TrainingRecord


class TailRecord(BaseModel):
    """Share of ``||W L||^2`` that the best weight of the planned rank leaves out, for the original weight W and after.

    ``after`` is that of the weight which is factored: the same as ``before`` where the original one is.
    """

    model_config = ConfigDict(frozen=True)

    before: float
    after: float


class PreparationRecord(TrainingRecord):
    """What the preparation of one block did.

    ``before`` and ``after`` are the squared error of the block's output on the held-out sequences with all prepared
    weights cut to their ranks, relative to what the original block changes in its input; so is ``held_out`` of each
    epoch. ``training`` of an epoch is that of the block before anything is cut, on the training sequences. A
    ``kept_epoch`` of 0 says that the original weights were factored, since no prepared ones lost less.

    Attributes:
        block: path of the block.
        tails: of each linear that was trained, by path.
    """

    block: Label
    tails: dict[Label, TailRecord]
