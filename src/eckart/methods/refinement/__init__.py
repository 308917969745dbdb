"""What is repaired after a block was factored: one file a refinement."""

from __future__ import annotations

from eckart.methods.refinement.base import NoRefinement
from eckart.methods.refinement.block import BlockRefinement
from eckart.methods.refinement.block_training import Sequences
from eckart.methods.refinement.record import RefinementRecord

__all__ = ["AnyRefinement", "BlockRefinement", "NoRefinement", "RefinementRecord", "Sequences"]

AnyRefinement = NoRefinement | BlockRefinement
