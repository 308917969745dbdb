"""Training of all blocks of the compressed model at once, at the end, against the original model's predictions."""

from __future__ import annotations

from eckart.methods.distillation.choice import LogitDistillation, NoDistillation

__all__ = [
    "AnyDistillation",
    "LogitDistillation",
    "NoDistillation",
]

AnyDistillation = NoDistillation | LogitDistillation
