"""What an epoch did, as data."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from eckart.files.field_types import Count


class EpochRecord(BaseModel):
    """Losses of an epoch, in the unit of what is trained.

    ``training`` is the mean over the steps of the epoch, ``held_out`` that on the held-out sequences after it, with the
    weights as they would be stored (None if no sequences are held out).
    """

    model_config = ConfigDict(frozen=True)

    training: float
    held_out: float | None


class TrainingRecord(BaseModel):
    """What a training did; losses are those on the held-out sequences, as in :class:`EpochRecord`.

    ``kept_epoch`` is the epoch whose state was kept; 0 is the state before the training.
    """

    model_config = ConfigDict(frozen=True)

    before: float | None
    after: float | None
    kept_epoch: Count
    epochs: list[EpochRecord]
