"""What all training by gradients has in common: its numbers, its loop, its learning rate."""

from __future__ import annotations

from eckart.methods.training.config import TrainingConfig as TrainingConfig
from eckart.methods.training.loop import Trainee as Trainee
from eckart.methods.training.loop import train as train
from eckart.methods.training.record import EpochRecord as EpochRecord
from eckart.methods.training.run import TrainingRun as TrainingRun
