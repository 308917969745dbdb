"""What all training by gradients has in common: its numbers, its loop, its learning rate."""

from __future__ import annotations

from eckart.training.loop import Trainee as Trainee
from eckart.training.loop import train as train
from eckart.training.plan import TrainingPlan as TrainingPlan
from eckart.training.record import EpochRecord as EpochRecord
