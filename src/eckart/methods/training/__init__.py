"""What all training by gradients has in common: its numbers, its loop, its learning rate."""

from __future__ import annotations

from eckart.methods.training.config import TrainingConfig
from eckart.methods.training.loop import Trainee, train
from eckart.methods.training.record import EpochRecord
from eckart.methods.training.run import TrainingRun

__all__ = ["EpochRecord", "Trainee", "TrainingConfig", "TrainingRun", "train"]
