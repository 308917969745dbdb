"""What is repaired after a block was factored: one file a refinement."""

from __future__ import annotations

from eckart.methods.refinement.base import NoRefinement as NoRefinement
from eckart.methods.refinement.block import BlockRefinement as BlockRefinement
from eckart.methods.refinement.block_training import Sequences as Sequences
from eckart.methods.refinement.record import RefinementRecord as RefinementRecord

AnyRefinement = NoRefinement | BlockRefinement
