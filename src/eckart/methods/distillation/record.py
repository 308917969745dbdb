"""What a distillation did, as data."""

from __future__ import annotations

from eckart.methods.training.record import TrainingRecord


class DistillationRecord(TrainingRecord):
    """What the distillation of a model did. Losses are in nats a token.

    They are KL divergences from what the original model predicts, or the cross-entropy of the text, whichever is
    trained on. Where one side of the factors is trained after the other, epochs are counted through.
    """
