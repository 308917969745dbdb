"""What is repaired after a block was factored: one file a refinement."""

from __future__ import annotations

from eckart.refinement.base import NoRefinement as NoRefinement
from eckart.refinement.block import BlockRefinement as BlockRefinement

AnyRefinement = NoRefinement | BlockRefinement
