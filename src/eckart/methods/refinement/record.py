"""What a refinement did, as data."""

from __future__ import annotations

from eckart.files.field_types import Label
from eckart.methods.training.record import TrainingRecord


class RefinementRecord(TrainingRecord):
    """What the refinement of one block did.

    Losses are the squared error of the block's output, relative to what the original block changes in its input.
    """

    block: Label
