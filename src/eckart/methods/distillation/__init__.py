"""Training of all blocks of the compressed model at once, at the end, against the original model's predictions."""

from __future__ import annotations

from eckart.methods.distillation.base import ModelTraining
from eckart.methods.distillation.choice import LogitDistillation, NoDistillation
from eckart.methods.distillation.lora import LoraRecovery

__all__ = [
    "AnyDistillation",
    "LogitDistillation",
    "LoraRecovery",
    "ModelTraining",
    "NoDistillation",
]

AnyDistillation = NoDistillation | LogitDistillation | LoraRecovery
