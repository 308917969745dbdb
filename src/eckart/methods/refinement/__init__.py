"""What is repaired after a block was factored: one file a refinement."""

from __future__ import annotations

from eckart.methods.refinement.base import NoRefinement
from eckart.methods.refinement.block import BlockRefinement

__all__ = [
    "AnyRefinement",
    "BlockRefinement",
    "NoRefinement",
]

AnyRefinement = NoRefinement | BlockRefinement
