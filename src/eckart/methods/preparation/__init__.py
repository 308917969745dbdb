"""What is done to a dense block before its linears are factored: one file a preparation."""

from __future__ import annotations

from eckart.methods.preparation.base import NoPreparation
from eckart.methods.preparation.block import BlockPreparation
from eckart.methods.preparation.penalty import StableRank, Tail
from eckart.methods.preparation.record import PreparationRecord

__all__ = [
    "AnyPreparation",
    "BlockPreparation",
    "NoPreparation",
    "PreparationRecord",
    "StableRank",
    "Tail",
]

AnyPreparation = NoPreparation | BlockPreparation
