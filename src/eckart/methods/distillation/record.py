"""What a distillation did, as data."""

from __future__ import annotations

from eckart.methods.training.record import TrainingRecord


class DistillationRecord(TrainingRecord):
    """What the distillation of a model did. Losses are KL divergences in nats a token."""
